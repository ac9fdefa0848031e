"""Alembic migrations of the study's database; `database.open_database` applies them."""
