"""A database of studies: Optuna's tables and ours, opened; and its errors, made readable."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy import select

from tuner.errors import InputError, StorageError
from tuner.study import tables


class Database:
    """A SQLite database of studies, opened: Optuna's tables and ours."""

    def __init__(self, url: str, *, create: bool = False) -> None:
        """StorageError where it can't be opened; with ``create`` it is made where it is missing."""
        self.url = url
        self.path = _sqlite_path(url)
        if create:
            with storage_errors(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
        elif not self.path.exists():
            raise StorageError(f"{self.path}: found no database, expected one made by tuner sweep")
        with storage_errors(self.path):
            self.rdb = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 30}})
            sqlalchemy.event.listen(self.rdb.engine, "connect", _configure)
            self.rdb.engine.dispose()
            tables.create_tables(self.rdb.engine)

    def study_names(self) -> list[str]:
        """The studies made by tuner."""
        with storage_errors(self.path), self.rdb.engine.connect() as connection:
            ours = set(connection.scalars(select(tables.studies.c.study_id)))
        return [s.study_name for s in self.rdb.get_all_studies() if s._study_id in ours]


def _sqlite_path(url: str) -> Path:
    try:
        parsed = sqlalchemy.make_url(url)
    except sqlalchemy.exc.ArgumentError:
        raise InputError("storage: found no database URL, expected sqlite:///FILE") from None
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        raise InputError(f"storage: found {parsed.render_as_string()}, expected sqlite:///FILE")
    return Path(parsed.database)


def _configure(connection: Any, record: Any) -> None:
    """Readers beside one writer; rows of ours go when Optuna's go."""
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what database drivers raise into one line that names the database."""
    try:
        yield
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        cause = error.__cause__ or error
        text = str(getattr(cause, "orig", None) or cause).splitlines()[0]
        raise StorageError(f"{path}: the database failed: {text}") from error
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
