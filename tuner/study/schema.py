"""The schema version of our tables: checked on opening a database, upgraded by Alembic."""

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, inspect, text

from tuner import hints
from tuner.errors import StorageError

VERSION_TABLE = "tuner_schema"
MIGRATIONS = Path(__file__).parent / "migrations"
HEAD = max(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))  # the newest
UNVERSIONED = "0001"  # the schema of databases without a version table


def _is_ours(item: Any, name: str | None, kind: str, reflected: bool, other: Any) -> bool:
    """Whether Alembic compares an object: not Optuna's tables, nor the version table."""
    return kind != "table" or (str(name).startswith("tuner_") and name != VERSION_TABLE)


# How Alembic compares our tables with those of a database.
COMPARISON: dict[str, Any] = {
    "version_table": VERSION_TABLE,
    "include_object": _is_ours,
    "compare_type": True,
    "compare_server_default": True,
}


def version(connection: Connection) -> str | None:
    """The version of our tables; None if there are none."""
    found = inspect(connection)
    if found.has_table(VERSION_TABLE):
        number = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
        return None if number is None else str(number)
    return UNVERSIONED if found.has_table("tuner_studies") else None


def check(connection: Connection, place: str) -> None:
    """StorageError unless the database holds studies in this tuner's schema."""
    found = version(connection)
    if found is None:
        raise StorageError(
            f"{place}: has no tuner tables; to create them, run: "
            f"{hints.command('create', 'STUDY.toml')}"
        )
    needs = f"this tuner needs schema {HEAD}"
    if found > HEAD:
        raise StorageError(f"{place}: schema {found} of a newer tuner; {needs}; upgrade tuner")
    if found < HEAD:
        upgrade = hints.command("db", "upgrade")
        raise StorageError(
            f"{place}: schema {found} of an older tuner; {needs}; stop all workers, "
            f"then run: {upgrade}"
        )


def upgrade(engine: Engine) -> None:
    """Create our tables, or upgrade them to HEAD, in one transaction. Optuna's must exist."""
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":  # its driver would commit each statement separately
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        config = alembic_config(connection)
        found = version(connection)
        if found == UNVERSIONED and not inspect(connection).has_table(VERSION_TABLE):
            command.stamp(config, UNVERSIONED)
        if found != HEAD:
            command.upgrade(config, "head")


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration for our migrations over ``connection``."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS))
    return config
