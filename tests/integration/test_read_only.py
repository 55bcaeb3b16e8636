"""Read-only and missing databases: reading works, writing fails in one line, nothing is created."""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
import study_databases
from builders import new_database
from study_databases import RANDOM, Studies, claim, report, run
from typer.testing import CliRunner

from tuner.cli import app
from tuner.errors import StorageError
from tuner.study import database
from tuner.study.verdict import Complete

NOBODY = 65534
url, studies = study_databases.url, study_databases.studies
READERS = [
    ["list"],
    ["status", "s"],
    ["status", "s", "--json"],
    ["trials", "s"],
    ["show", "s", "0"],
    ["export", "s"],
]
WRITERS = [["stop", "s"], ["enqueue", "s", "beta1=0.5"], ["retry", "s", "0"], ["prune", "s", "1"]]


@pytest.fixture
def folder() -> Iterator[Path]:
    """The folder of a database with a finished and a running trial.

    Not tmp_path, which other users can't read.
    """
    with tempfile.TemporaryDirectory(prefix="tuner-readers-") as path:
        os.chmod(path, 0o755)
        studies = Studies(new_database(Path(path) / "studies.db"))
        studies.create(RANDOM, trials=3)
        session = studies.join()
        run(session, [20.0], Complete())
        report(session, claim(session), [30.0])
        studies.close()
        yield Path(path)
        os.chmod(path, 0o755)


@contextmanager
def reader_of(folder: Path) -> Iterator[None]:
    """Run as a user who may read but not write the folder."""
    for file in folder.iterdir():
        file.chmod(0o444)
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        if root:
            os.setresuid(0, 0, 0)
        folder.chmod(0o755)


def invoke(words: list[str], url: str) -> Any:
    """Run a command; raise its error."""
    result = CliRunner().invoke(app, [*words, "--storage", url])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_read_only_users_can_read_a_study(folder: Path) -> None:
    """With SQLite's write-ahead log, and after the last worker has left and the log is removed."""
    url = f"sqlite:///{folder}/studies.db"
    worker = sqlite3.connect(folder / "studies.db")
    worker.execute("SELECT * FROM trials").fetchall()
    for log in (True, False):
        if not log:
            worker.close()
        assert (folder / "studies.db-wal").exists() == log
        before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
        with reader_of(folder):
            for words in READERS:
                assert invoke(words, url).exit_code == 0, words
            for words in WRITERS:
                with pytest.raises(StorageError, match="readonly database") as caught:
                    invoke(words, url)
                assert "\n" not in str(caught.value)
        assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before


OPENING = [
    ["list"],
    ["status"],
    ["status", "s", "--watch"],
    ["trials", "s"],
    ["show", "s", "0"],
    ["best", "s"],
    ["sample", "s", "--out", "x.png"],
    ["export", "s"],
    ["replay", "s"],
    ["compare", "s", "t"],
    ["plot", "s", "--kind", "map", "--out", "x.svg"],
    ["report", "s", "--out", "x.html"],
    ["dashboard"],
    ["worker", "s"],
    ["stop", "s"],
    ["enqueue", "s", "beta1=0.5"],
    ["retry", "s", "0"],
    ["prune", "s", "0"],
    ["delete", "s", "--yes"],
    ["db", "upgrade"],
]


@pytest.mark.parametrize("words", OPENING, ids=" ".join)
def test_opening_a_missing_database_does_not_create_it(words: list[str], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/nothere/mistyped.db"
    with pytest.raises(StorageError, match="no such database; to create one, run: "):
        invoke(words, url)
    (tmp_path / "nothere").mkdir()
    with pytest.raises(StorageError, match="no such database; to create one, run: "):
        invoke(words, url)
    assert list((tmp_path / "nothere").iterdir()) == []


def test_files_that_are_not_databases_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("a study\n" * 1000)
    for name, why in {
        "folder": "not a database file",
        "pipe": "not a database file",
        "empty": "has no tuner tables",
        "text": "file is not a database",
    }.items():
        for opened in (database.Database, database.upgrade):
            with pytest.raises(StorageError, match=why) as caught:
                opened(f"sqlite:///{tmp_path}/{name}")
            assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "folder", "pipe", "text"]
    assert (tmp_path / "empty").stat().st_size == 0


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_read_only_roles_are_refused_with_the_missing_privilege(studies: Studies) -> None:
    studies.create(RANDOM, trials=3)
    run(studies.join(), [20.0], Complete())
    url = sqlalchemy.make_url(studies.url)
    role = f"reader_{url.database}"
    studies.rows(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    try:
        studies.rows(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
        mine = url.set(username=role, password="x").render_as_string(hide_password=False)
        for words in READERS:
            assert invoke(words, mine).exit_code == 0, words
        for words in WRITERS[:-1]:
            with pytest.raises(StorageError, match=f"{role}.*permission denied.*Roles") as caught:
                invoke(words, mine)
            assert "\n" not in str(caught.value)
            assert not caught.value.transient
    finally:
        studies.rows(f"DROP OWNED BY {role}")
        studies.rows(f"DROP ROLE {role}")
