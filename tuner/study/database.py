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

TOKEN = "tuner:token"  # the attribute that marks an Optuna study as ours


class Database:
    """A SQLite database of studies, opened: Optuna's tables and ours."""

    def __init__(self, url: str, *, create: bool = False) -> None:
        """StorageError where it can't be opened; with ``create`` it is made where it is missing."""
        self.path = _sqlite_path(url)
        if create:
            with storage_errors(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
        elif not self.path.exists():
            raise StorageError(f"{self.path}: found no database, expected one made by tuner sweep")
        with storage_errors(self.path):
            # A connection for each use: opening a file is cheap, and nothing is left open.
            options = {"poolclass": sqlalchemy.NullPool, "connect_args": {"timeout": 30}}
            try:
                self.rdb = RDBStorage(url, engine_kwargs=options)
            except RuntimeError as error:  # a schema of another Optuna
                text = str(error).splitlines()[0]
                raise StorageError(f"{self.path}: can't be used: {text}") from error
            sqlalchemy.event.listen(self.rdb.engine, "connect", _configure)
            tables.create_tables(self.rdb.engine)

    def study_names(self) -> list[str]:
        """The studies made by tuner."""
        with storage_errors(self.path):
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


def _sqlite_path(url: str) -> Path:
    """The file of a SQLite URL; InputError, which shows no password, for any other."""
    try:
        parsed = sqlalchemy.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise InputError("storage: found no database URL, expected sqlite:///FILE") from None
    backend = parsed.get_backend_name()
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite") or not parsed.database:
        raise InputError(f"storage: found a {backend} URL, expected sqlite:///FILE")
    if parsed.database == ":memory:":
        raise InputError("storage: found a database in memory, expected sqlite:///FILE")
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
    except KeyError as error:  # Optuna's word for what is not there, or no longer
        raise StorageError(f"{path}: a study or trial is gone: {error.args[0]}") from error
    except optuna.exceptions.UpdateFinishedTrialError as error:
        raise StorageError(f"{path}: the trial has been ended from elsewhere") from error
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        cause = error.__cause__ or error
        text = str(getattr(cause, "orig", None) or cause).splitlines()[0]
        raise StorageError(f"{path}: the database failed: {text}") from error
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
