"""Baselines: one method per file, each a `dbbench.generation.method.Method`."""
