"""Running: the stages, the loop that works through a plan, and who executes it."""
