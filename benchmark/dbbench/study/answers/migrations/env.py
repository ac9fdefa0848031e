"""Alembic's entry point: it runs the steps in `versions` on the connection of `open_database`."""

from alembic import context

from dbbench.study.answers.database import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
