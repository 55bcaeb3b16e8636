"""A database of studies: Optuna's tables and ours, opened."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from alembic.util import CommandError
from sqlalchemy import select

from tuner.errors import StorageError
from tuner.study import schema, tables
from tuner.study.connections import Address, configure, time_transactions
from tuner.study.storage import FencedStorage, OpenStorage

TOKEN = "tuner:token"  # the attribute that marks an Optuna study as ours


class Database:
    """A database of studies, opened: Optuna's tables and ours."""

    def __init__(self, url: str, *, create: bool = False) -> None:
        """StorageError where it can't be opened; with ``create`` its tables, and a SQLite file,
        are made where they are missing."""
        self.address = Address(url)
        self.place = self.address.place
        if create:
            _make_tables(self.address)
        elif self.address.is_sqlite and not self.address.file.exists():
            raise StorageError(f"{self.place}: found no database, expected one made by tuner sweep")
        with self.address.connected() as connection:
            schema.check(connection, self.place)
        self.rdb = _open(self.address)
        weakref.finalize(self.rdb, self.rdb.engine.dispose)  # at the latest when Python exits

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what database drivers raise into one line that names the database."""
        with self.address.errors():
            yield

    def open_to_others(self) -> OpenStorage:
        """The same database for a program that knows nothing of leases. For any thread."""
        with self.errors():
            storage = OpenStorage(*_arguments(self.address), skip_table_creation=True)
        configure(storage.engine)
        storage.engine.dispose()
        weakref.finalize(storage, storage.engine.dispose)
        return storage

    def watch(self, tell: Callable[[float], None]) -> None:
        """From here on, ``tell`` how many seconds each transaction took."""
        time_transactions(self.rdb.engine, tell)

    def study_names(self) -> list[str]:
        """The studies made by tuner."""
        with self.errors():
            with self.rdb.engine.connect() as connection:
                columns = tables.studies.c
                rows = connection.execute(select(columns.study_id, columns.token))
                ours = {row.study_id: row.token for row in rows}
            # The token, for SQLite gives the ids of deleted studies to new ones.
            return [
                study.study_name
                for study in self.rdb.get_all_studies()
                if ours.get(study._study_id, "") == study.user_attrs.get(TOKEN)
            ]


def _open(address: Address, *, make_tables: bool = False, check: bool = True) -> FencedStorage:
    with address.errors():
        rdb = FencedStorage(
            *_arguments(address),
            skip_compatibility_check=True,
            skip_table_creation=not make_tables,
        )
        configure(rdb.engine)
        rdb.engine.dispose()  # connections from before that
        if check:
            _check_optunas(rdb, address.place)
    return rdb


def _arguments(address: Address) -> tuple[str, dict[str, Any]]:
    url = address.url.render_as_string(hide_password=False)
    return url.replace("{", "{{").replace("}", "}}"), address.engine_options()  # it formats the URL


def _check_optunas(rdb: FencedStorage, place: str) -> None:
    try:
        rdb._version_manager.check_table_schema_compatibility()
    except RuntimeError as error:  # a schema of another Optuna
        rdb.engine.dispose()
        raise StorageError(f"{place}: can't be used: {str(error).splitlines()[0]}") from error


def _make_tables(address: Address) -> None:
    """Make the tables where there are none."""
    if address.is_sqlite:
        with address.errors():
            address.file.parent.mkdir(parents=True, exist_ok=True)
    with address.alone():
        with address.connected() as connection:
            if schema.version(connection) is not None:
                return
        rdb = _open(address, make_tables=True)
        with address.errors():
            schema.upgrade(rdb.engine)
        rdb.engine.dispose()


def upgrade(url: str) -> tuple[str, str]:
    """Bring Optuna's tables and ours to what this tuner expects: the versions before and after.

    StorageError where there are none, or newer ones.
    """
    address = Address(url)
    with address.connected() as connection:
        found = schema.version(connection)
        if found is None or found > schema.HEAD:
            schema.check(connection, address.place)
    rdb = _open(address, check=False)
    try:
        with address.errors():
            rdb.upgrade()
            schema.upgrade(rdb.engine)
    except CommandError as error:  # Optuna's tables are newer than this Optuna
        raise StorageError(f"{address.place}: can't be upgraded: {error}") from error
    finally:
        rdb.engine.dispose()
    return str(found), schema.HEAD
