"""Databases in encodings other than UTF-8, and client encodings."""

from collections.abc import Callable
from pathlib import Path

import pytest
import study_databases
from postgres import PASSWORD, Postgres
from processes import Tuner
from study_databases import Studies

from tuner.errors import InputError, StorageError
from tuner.study.database import Database, upgrade
from tuner.study.steering import request_prune

STUDY = '[data]\nsource = "digits"\n[trial]\nlearning_rate = { low = 1e-4, high = 1e-2 }\n'


def database_in(postgres: Postgres, encoding: str) -> str:
    """The URL of a new, empty database with an encoding."""
    name = f"in_{encoding.lower()}"
    postgres.execute(f"DROP DATABASE IF EXISTS {name}")
    words = "TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    postgres.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' {words}")
    return postgres.url(name)


@pytest.mark.parametrize(
    "use", [lambda url: Database(url, create=True), Database, upgrade], ids=["make", "open", "up"]
)
def test_a_database_without_an_encoding_is_refused(
    postgres: Postgres, use: Callable[[str], object]
) -> None:
    with pytest.raises(InputError, match="its encoding is SQL_ASCII") as caught:
        use(database_in(postgres, "SQL_ASCII"))
    assert "\n" not in str(caught.value)
    assert PASSWORD not in str(caught.value)
    # The suggested command creates a database that is accepted.
    remedy = str(caught.value).partition("with: ")[2]
    postgres.execute("DROP DATABASE IF EXISTS suggested")
    postgres.execute(remedy.replace("name", "suggested", 1))
    Database(postgres.url("suggested"), create=True).rdb.engine.dispose()


def test_commands_refuse_such_a_database_in_one_line(
    postgres: Postgres, tuner: Tuner, tmp_path: Path
) -> None:
    url = database_in(postgres, "SQL_ASCII")
    (tmp_path / "s.toml").write_text(STUDY)
    for words in (["create", "s.toml"], ["list"], ["db", "upgrade"]):
        done = tuner(*words, "--storage", url)
        assert (done.returncode, done.stdout) == (2, ""), words
        [line] = done.stderr.splitlines()
        assert line.startswith("tuner: postgresql://owner@127.0.0.1"), line
        assert "its encoding is SQL_ASCII" in line


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", "nonsense"])
def test_client_encodings_change_nothing(
    postgres: Postgres, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.new_database()
    monkeypatch.setenv("PGCLIENTENCODING", encoding)
    for each in (url, f"{url}?client_encoding={encoding}"):
        database = Database(each, create=True)
        assert database.study_names() == []
        database.rdb.engine.dispose()


def test_an_unencodable_character_is_reported_in_one_line(postgres: Postgres) -> None:
    url = database_in(postgres, "LATIN1")
    Database(url, create=True).rdb.engine.dispose()
    studies = Studies(url)
    try:
        store = studies.create()
        number = study_databases.claim(studies.join()).number
        request_prune(store, number, "naïve")
        with pytest.raises(StorageError, match=r"use a database with encoding UTF8") as caught:
            request_prune(store, number, "形")
        assert not caught.value.transient
        assert [row[-1] for row in studies.leases()] == ["naïve"]
    finally:
        studies.close()
