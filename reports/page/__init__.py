"""The HTML page of a run: tables, charts, plots, galleries."""
