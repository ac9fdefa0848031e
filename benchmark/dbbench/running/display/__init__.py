"""What is shown during a run: progress on a terminal, as lines or JSON, and in trackers."""
