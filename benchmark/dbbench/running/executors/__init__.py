"""Executors: this process, several processes on one machine, or a Ray cluster."""
