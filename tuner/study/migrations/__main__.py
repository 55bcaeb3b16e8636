"""Write a migration for changed tables: ``python -m tuner.study.migrations "A new metric"``.

Compares study/tables.py with a new database of the newest schema.
"""

import sys
import tempfile
from typing import Any

from alembic import command

from tuner.study import schema
from tuner.study.database import Database


def write_migration(message: str) -> None:
    """Add a file to versions/ that upgrades databases from ``schema.HEAD`` to study/tables.py."""
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/studies.db", create=True)
        with database.rdb.engine.connect() as connection:
            config = schema.alembic_config(connection)
            config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
            command.revision(
                config,
                message,
                autogenerate=True,
                rev_id=f"{int(schema.HEAD) + 1:04}",
                process_revision_directives=_refuse_if_empty,
            )
        database.rdb.engine.dispose()


def _refuse_if_empty(context: Any, revision: Any, directives: list[Any]) -> None:
    if directives[0].upgrade_ops.is_empty():
        sys.exit("nothing to migrate: the tables match the newest schema")


if __name__ == "__main__":
    write_migration(sys.argv[1])
