"""Data sets: subjects, their images and their prompts; all later stages read them."""
