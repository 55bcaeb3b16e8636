"""Schema version of a database: migrations, checks and upgrades."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
import study_databases
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from builders import epoch
from optuna.study import StudyDirection
from postgres import Postgres
from study_databases import RANDOM, Studies, claim, report, spec

from tuner import hints
from tuner.errors import InputError, StorageError
from tuner.study import database, schema, tables
from tuner.study.connections import Address
from tuner.study.database import Database
from tuner.study.verdict import Complete

url, studies = study_databases.url, study_databases.studies


@pytest.fixture(params=["sqlite", "postgres"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without tables."""
    if request.param == "sqlite":
        (tmp_path / "studies.db").touch()  # opening does not create the file
        return f"sqlite:///{tmp_path}/studies.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    return ScriptDirectory.from_config(config)


def test_migrations_create_the_declared_tables(studies: Studies) -> None:
    assert_declared_tables(studies)


def assert_declared_tables(studies: Studies) -> None:
    with studies.open().address.connected() as connection:
        context = MigrationContext.configure(connection, opts=schema.COMPARISON)
        assert compare_metadata(context, tables.metadata) == []
        found = set(sqlalchemy.inspect(connection).get_table_names())
        assert {table.name for table in tables.metadata.sorted_tables} <= found
        for table in tables.metadata.sorted_tables:
            keys = sqlalchemy.inspect(connection).get_foreign_keys(table.name)
            assert {key["options"].get("ondelete") for key in keys} == {"CASCADE"}


def test_the_newest_migration_is_the_expected_one(studies: Studies) -> None:
    assert scripts().get_heads() == [schema.HEAD]
    assert scripts().get_bases() == [schema.UNVERSIONED]
    numbers = [str(script.revision) for script in scripts().walk_revisions()]
    # Versions are compared as strings.
    assert all(len(number) == 4 and number.isdigit() for number in numbers)
    with studies.open().address.connected() as connection:
        assert schema.version(connection) == schema.HEAD


def create_old(url: str) -> None:
    """A database of the first, unversioned schema, with two running trials and a pruned one."""
    address = Address(url)
    rdb = database._open(address, make_tables=True)
    study = "INSERT INTO studies (study_id, study_name) VALUES (1, 's')"
    with address.connected() as connection, connection.begin():
        first = scripts().get_revision("0001")
        with Operations.context(MigrationContext.configure(connection)):
            first.module.upgrade()
        execute(connection, study)
        execute(connection, "INSERT INTO study_directions VALUES (1, 'MINIMIZE', 1, 0)")
        attributes = {"token": "0123456789abcdef", "data": "abc", "extractor": "def"}
        for number, (key, value) in enumerate(attributes.items(), 1):
            insert = "INSERT INTO study_user_attributes VALUES (:id, 1, :key, :value)"
            execute(connection, insert, id=number, key=f"tuner:{key}", value=f'"{value}"')
        for trial, state in ((1, "RUNNING"), (2, "PRUNED"), (3, "RUNNING")):
            execute(
                connection,
                "INSERT INTO trials (trial_id, number, study_id, state) VALUES (:id, :n, 1, :s)",
                id=trial,
                n=trial - 1,
                s=state,
            )
        execute(
            connection,
            "INSERT INTO tuner_studies VALUES (1, '0123456789abcdef', :spec, 3, '0.1.0', 1e9)",
            spec=spec(RANDOM).model_dump_json(),
        )
        names = [column.name for column in tables.epochs.c]
        names = names[: names.index("worker")]
        for trial, count in ((1, 2), (2, 4)):
            for number in range(1, count + 1):
                values = epoch(number, 40.0 - number)._asdict()
                row = values | {"trial_id": trial, "reported_at": 1e9}
                marks = ", ".join(f":{name}" for name in names)
                insert = f"INSERT INTO tuner_epochs ({', '.join(names)}) VALUES ({marks})"
                execute(connection, insert, **row)
    rdb.engine.dispose()


def execute(connection: sqlalchemy.Connection, statement: str, **values: Any) -> None:
    connection.execute(sqlalchemy.text(statement), values)


def test_an_old_database_is_refused_until_it_is_upgraded(empty: str) -> None:
    create_old(empty)
    place = Address(empty).place
    line = (
        f"{place}: schema 0001 of an older tuner; this tuner needs schema {schema.HEAD}; "
        f"stop all workers, then run: {hints.command('db', 'upgrade')}"
    )
    for create in (False, True):
        with pytest.raises(StorageError) as caught:
            Database(empty, create=create)
        assert (str(caught.value), caught.value.transient) == (line, False)
    assert database.upgrade(empty) == ("0001", schema.HEAD)
    assert database.upgrade(empty) == (schema.HEAD, schema.HEAD)
    studies = Studies(empty)
    store = studies.store()
    assert [found.fid for found in store.trial(1).reports] == [39.0, 38.0, 37.0, 36.0]
    assert [lease[1:] for lease in studies.leases()] == [
        ("free", None, 0, 2, 0, None),
        ("free", None, 0, 0, 0, None),
    ]
    assert store.fingerprint() == {"data": "abc", "weights": "def", "version": "1"}
    with pytest.raises(InputError, match="found data xyz, expected abc"):
        store.bind({"data": "xyz", "samples": "9"})
    session = studies.join()
    taken = [claim(session)]
    assert [found.fid for found in taken[0].history] in ([39.0, 38.0], [])
    other = studies.join()
    taken.append(claim(other))
    first, last = sorted(taken, key=lambda found: found.number)
    assert ((first.number, len(first.history)), (last.number, last.history)) == ((0, 2), (2, ()))
    assert (first.token, last.token) == (1, 1)
    owner = session if first is taken[0] else other
    report(owner, first, [30.0])
    owner.finish(first, Complete())
    assert [found.epoch for found in store.trial(0).reports] == [1, 2, 3]
    studies.close()


def test_an_upgraded_database_equals_a_new_one(empty: str) -> None:
    create_old(empty)
    database.upgrade(empty)
    studies = Studies(empty)
    assert_declared_tables(studies)
    studies.close()


def test_a_failing_upgrade_changes_nothing(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    create_old(empty)
    with Address(empty).connected() as connection:
        before = sqlalchemy.inspect(connection).get_table_names()
    with monkeypatch.context() as patch:
        patch.setattr(Operations, "execute", lambda *_: 1 / 0)  # the second migration's last step
        with pytest.raises(ZeroDivisionError):
            database.upgrade(empty)
    with Address(empty).connected() as connection:
        assert schema.version(connection) == schema.UNVERSIONED
        assert set(sqlalchemy.inspect(connection).get_table_names()) == set(before)
    assert database.upgrade(empty) == ("0001", schema.HEAD)


def test_a_database_of_a_newer_tuner_is_refused(studies: Studies) -> None:
    studies.rows(f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'")
    place = Address(studies.url).place
    line = f"{place}: schema 9999 of a newer tuner; this tuner needs schema {schema.HEAD}; upgrade"
    for act in (studies.open, lambda: database.upgrade(studies.url)):
        with pytest.raises(StorageError, match=line):
            act()
    with pytest.raises(StorageError, match=line):
        Database(studies.url, create=True)


def test_a_schema_of_another_optuna_is_refused_in_one_line(studies: Studies) -> None:
    place = Address(studies.url).place
    for revision in ("v9.9.0", "v0.9.0.a"):  # newer, older
        studies.rows("UPDATE alembic_version SET version_num = :revision", revision=revision)
        with pytest.raises(StorageError, match=f"^{place}: can't be used: .*optuna") as caught:
            studies.open()
        assert "\n" not in str(caught.value)
        assert not caught.value.transient


def test_a_newer_optunas_schema_cannot_be_upgraded(studies: Studies) -> None:
    studies.rows("UPDATE alembic_version SET version_num = 'v9.9.0'")
    with pytest.raises(StorageError, match=Address(studies.url).place) as caught:
        database.upgrade(studies.url)
    assert "\n" not in str(caught.value)


def test_a_database_without_tables_is_refused_unless_created(empty: str) -> None:
    place = Address(empty).place
    if place.endswith(".db"):
        Path(place).touch()
    line = f"^{place}: has no tuner tables; to create them, run: .*tuner create STUDY.toml$"
    for act in (lambda: Database(empty), lambda: database.upgrade(empty)):
        with pytest.raises(StorageError, match=line):
            act()
    Database(empty, create=True).rdb.engine.dispose()
    Database(empty).rdb.engine.dispose()


def test_an_optuna_database_gets_our_tables(empty: str) -> None:
    database._open(Address(empty), make_tables=True).engine.dispose()
    studies = Studies(empty)
    studies.optuna_storage.create_new_study([StudyDirection.MINIMIZE], "theirs")
    Database(empty, create=True).rdb.engine.dispose()
    assert studies.open().study_names() == []
    assert studies.optuna_study("theirs").trials == []
    studies.close()
