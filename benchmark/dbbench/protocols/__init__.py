"""Protocols: one TOML file each, with one published interpretation of the paper's metrics."""
