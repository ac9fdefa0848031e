"""Encoders: one file each; every one maps images and texts to unit vectors."""
