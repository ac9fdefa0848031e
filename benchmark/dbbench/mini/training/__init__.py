"""How the embedded weights are trained, from nothing: `python -m dbbench.mini.training.train`."""
