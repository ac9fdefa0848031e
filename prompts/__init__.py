"""The prompt lists as data: object.toml and live.toml, 25 templates each."""
