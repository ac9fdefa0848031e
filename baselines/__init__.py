"""Baselines: one method a file, each a `dbbench.method.Method`."""
