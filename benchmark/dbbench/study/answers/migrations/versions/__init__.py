"""One file per migration. Each names the one before it in `down_revision`."""
