"""Alembic's environment: runs migrations over the connection given in its configuration."""

from alembic import context

from tuner.study import schema, tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.metadata,
    **schema.COMPARISON,
)
with context.begin_transaction():
    context.run_migrations()
