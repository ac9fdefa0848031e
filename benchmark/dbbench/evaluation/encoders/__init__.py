"""Encoders: one file per library; each maps images (and texts) to unit vectors."""
