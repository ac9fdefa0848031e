"""Formats of a table: terminal, Markdown, CSV, Parquet, LaTeX."""
