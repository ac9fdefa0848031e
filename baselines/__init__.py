"""Baselines: one method a file, each a `dbbench.generation.method.Method`."""
