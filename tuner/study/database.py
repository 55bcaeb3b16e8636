"""A database of studies: opening, creating and upgrading Optuna's tables and ours."""

import logging
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from alembic.util import CommandError
from sqlalchemy import Connection, Executable, event, select, text

from tuner.environment import Place, place_of_file
from tuner.errors import StorageError
from tuner.study import rows, schema, tables
from tuner.study.connections import Address
from tuner.study.storage import FencedStorage
from tuner.study.unfenced_storage import UnfencedStorage

_SERVER = "SELECT system_identifier FROM pg_control_system()"
_MAY_CALL = "SELECT has_function_privilege('pg_control_system()', 'execute')"
_PORT = "SELECT current_setting('port')"  # some providers deny their users the function
_OID = "SELECT oid FROM pg_database WHERE datname = current_database()"


class Database:
    """A database of studies, opened: Optuna's tables and ours."""

    def __init__(self, url: str, *, create: bool = False) -> None:
        """Open the database; ``create`` adds a missing SQLite file and missing tables.

        InputError for an unusable URL; StorageError if the database can't be opened.
        """
        self.address = Address(url)
        self.place = self.address.place
        if create:
            _make_tables(self.address)
        self.address.check_exists()
        with self.address.connected() as connection:
            schema.check(connection, self.place)
            if self.address.is_sqlite:
                # A write-ahead log lets others read during a write. Set only after the check: the
                # file might be another program's.
                read_only = connection.exec_driver_sql("PRAGMA query_only").scalar_one()
                if not read_only:
                    connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        self.rdb = _open(self.address)
        weakref.finalize(self.rdb, self.rdb.engine.dispose)  # at exit at the latest

    def errors(self) -> AbstractContextManager[None]:
        """See ``Address.errors``."""
        return self.address.errors()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection; its errors name the database."""
        with self.errors(), self.rdb.engine.connect() as connection:
            yield connection

    def execute(self, statement: Executable) -> None:
        """Execute one statement in a transaction of its own."""
        with self.errors(), self.rdb.engine.begin() as connection:
            connection.execute(statement)

    def location(self) -> Place:
        """Identify the database among its copies, which hold the same studies and tokens.

        The path and inode of a SQLite file; for Postgres, the server's identifier and the
        database's OID. StorageError if the database is unavailable.
        """
        if self.address.is_sqlite:
            with self.errors():
                return place_of_file(self.address.file)
        with self.address.connected() as connection:
            server = _SERVER if connection.execute(text(_MAY_CALL)).scalar_one() else _PORT
            found = [connection.execute(text(query)).scalar_one() for query in (server, _OID)]
        return Place("postgresql", "/".join(map(str, found)))

    def open_unfenced(self) -> UnfencedStorage:
        """Open the database for a program without leases: the dashboard. Thread-safe."""
        with self.errors():
            storage = UnfencedStorage(*_arguments(self.address), skip_table_creation=True)
        weakref.finalize(storage, storage.engine.dispose)
        return storage

    def watch(self, observe: Callable[[float], None]) -> None:
        """Call ``observe`` after every transaction from now on, with its duration in seconds.

        Measured from the checkout of its connection to the checkin, right after the commit.
        """

        def checked_out(connection: Any, record: Any, proxy: Any) -> None:
            record.info["checked_out"] = time.perf_counter()

        def checked_in(connection: Any, record: Any) -> None:
            if (began := record.info.pop("checked_out", None)) is not None:
                observe(time.perf_counter() - began)

        event.listen(self.rdb.engine, "checkout", checked_out)
        event.listen(self.rdb.engine, "checkin", checked_in)

    def study_names(self) -> list[str]:
        """The names of the studies created by tuner, oldest first."""
        ours, theirs = tables.studies.c, tables.optuna_studies.c
        marks = tables.study_user_attributes.c
        query = (
            select(theirs.study_name, ours.token, marks.value_json)
            .join(tables.studies, ours.study_id == theirs.study_id)
            .join(tables.study_user_attributes, marks.study_id == theirs.study_id)
            .where(marks.key == tables.TOKEN)
            .order_by(theirs.study_id)
        )
        with self.reading() as connection:
            found = connection.execute(query).all()
        # Matched by token, since SQLite gives the ids of deleted studies to new ones.
        return [str(name) for name, token, mark in found if token and rows.attribute(mark) == token]


def _open(address: Address, *, make_tables: bool = False, check: bool = True) -> FencedStorage:
    with address.errors():
        rdb = FencedStorage(
            *_arguments(address, patient=make_tables or not check),
            skip_compatibility_check=True,
            skip_table_creation=not make_tables,
        )
        versions = rdb._version_manager
        try:
            # Optuna's own check keeps a transaction open while it opens another connection.
            if check and versions.get_current_version() != versions.get_head_version():
                versions.check_table_schema_compatibility()
        except RuntimeError as error:  # a schema of another Optuna
            rdb.engine.dispose()
            line = f"{address.place}: can't be used: {str(error).splitlines()[0]}"
            raise StorageError(line) from error
    return rdb


def _arguments(address: Address, *, patient: bool = False) -> tuple[str, dict[str, Any]]:
    # Optuna formats the URL.
    url = address.url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    return url, address.engine_options(patient=patient)


def _make_tables(address: Address) -> None:
    """Create the tables if there are none."""
    if address.is_sqlite:
        with address.errors():
            address.file.parent.mkdir(parents=True, exist_ok=True)
    with address.exclusive():
        if address.is_sqlite:
            with address.errors():
                address.file.touch(mode=0o644)
        with address.connected() as connection:
            if schema.version(connection) is not None:
                return
        rdb = _open(address, make_tables=True)
        with address.errors():
            schema.upgrade(rdb.engine)
        rdb.engine.dispose()


def upgrade(url: str) -> tuple[str, str]:
    """Upgrade Optuna's tables and ours; returns the versions of ours before and after.

    StorageError if there are no tables, or if they are newer than this tuner or its Optuna.
    """
    address = Address(url)
    address.check_exists()
    with address.connected() as connection:
        found = schema.version(connection)
        if found is None or found > schema.HEAD:
            schema.check(connection, address.place)
    rdb = _open(address, check=False)
    try:
        with address.errors(), _without_info():
            rdb.upgrade()
            schema.upgrade(rdb.engine)
    except CommandError as error:  # Optuna's tables are newer than this Optuna
        raise StorageError(f"{address.place}: can't be upgraded: {error}") from error
    finally:
        rdb.engine.dispose()
    return str(found), schema.HEAD


@contextmanager
def _without_info() -> Iterator[None]:
    """Drop the log lines of Alembic, whose logging Optuna configures for each upgrade."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)
