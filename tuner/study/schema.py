"""The version of our tables in a database: checked by all who open it, raised by Alembic."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, inspect, text

from tuner.errors import StorageError

VERSION_TABLE = "tuner_schema"
HEAD = "0003"  # the newest of the migrations, which a test holds it against
UNVERSIONED = "0001"  # databases from before versions were written down


def version(connection: Connection) -> str | None:
    """The version of the tables that are there; None where there are none."""
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
            f"{place}: found no tables of tuner, expected a database that tuner create has filled"
        )
    if found > HEAD:
        raise StorageError(
            f"{place}: found schema {found} of a newer tuner, expected {HEAD}; upgrade this tuner"
        )
    if found < HEAD:
        raise StorageError(
            f"{place}: found schema {found} of an older tuner, expected {HEAD}; "
            "stop its workers, then run: tuner db upgrade"
        )


def upgrade(engine: Engine) -> None:
    """Make our tables, or bring them to HEAD, in one transaction. Optuna's must be there."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":  # whose driver would commit each statement apart
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        config.attributes["connection"] = connection
        found = version(connection)
        if found == UNVERSIONED and not inspect(connection).has_table(VERSION_TABLE):
            command.stamp(config, UNVERSIONED)
        if found != HEAD:
            command.upgrade(config, "head")
