"""Weights that others trained, a module for each kind of file; no tensor is left out silently."""
