"""The schema of the study's database, step by step; `database.open_database` applies it."""
