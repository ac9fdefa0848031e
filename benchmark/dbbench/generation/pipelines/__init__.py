"""From a folder, a file or the hub to a pipeline whose parts and settings are understood."""
