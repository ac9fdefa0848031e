"""Protocols: one TOML file each; every one is a published reading of the paper as data."""
