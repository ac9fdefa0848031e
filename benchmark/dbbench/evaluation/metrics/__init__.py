"""Metrics: one file each; every one maps features to one number per image."""
