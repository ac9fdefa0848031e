"""What Alembic runs: the steps in `versions`, in the connection that `open_database` hands over."""

from alembic import context

from dbbench.study.answers.database import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
