"""Data sets: subjects, their images and their prompts; the top of the flow."""
