"""Validity: whether the metrics measure what they promise, on drawings with known truth."""
