"""Trains the embedded weights from scratch: `python -m dbbench.mini.training.train`."""
