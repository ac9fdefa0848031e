"""Suites: one TOML file per experiment, read by `dbbench.suites.suite`."""
