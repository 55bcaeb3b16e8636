"""Run by Alembic for every migration, over the connection that ``schema.upgrade`` hands it."""

from alembic import context

from tuner.study import tables
from tuner.study.schema import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.metadata,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
