"""One file a step. Each names the one before it in `down_revision`."""
