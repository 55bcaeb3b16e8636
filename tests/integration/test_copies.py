"""Files that copied, moved, linked and restored databases may read, write and remove."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
import study_databases
from builders import new_database
from postgres import Postgres
from psycopg import sql
from study_databases import Studies

from tuner.cli.steer import delete
from tuner.files.study_files import TOKEN, StudyFiles, open_files
from tuner.study import steering

Files = dict[str, bytes]
cached_migrations = study_databases.cached_migrations


@pytest.fixture
def open_at() -> Iterator[Callable[[str | Path], Studies]]:
    """Opens the studies of a database, given its URL or the path of a SQLite file."""
    with cached_migrations(), contextlib.ExitStack() as stack:

        def open_at(database: str | Path) -> Studies:
            url = database if isinstance(database, str) else f"sqlite:///{database}"
            return stack.enter_context(contextlib.closing(Studies(url)))

        yield open_at


@pytest.fixture
def original(
    tmp_path: Path, open_at: Callable[[Path], Studies], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The folder of a project whose study has its files in the default place."""
    folder = tmp_path / "a"
    new_database(folder / "tuner-data" / "studies.db")
    monkeypatch.delenv("TUNER_ARTIFACTS", raising=False)
    monkeypatch.chdir(folder)
    files = open_files(open_at(Path("tuner-data/studies.db")).create())
    files.write("generator", b"original")
    files.write("pictures/a", b"original")
    return folder


def contents(folder: Path) -> Files:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "artifacts" in path.parts
    }


def assert_reads_and_writes(files: StudyFiles) -> None:
    """Assert that the copy reads the original's files and writes its own."""
    assert files.read("generator") == b"original"
    assert files.names("pictures") == ["pictures/a"]
    files.write("pictures/b", b"its own")
    files.write("generator", b"its own")
    assert files.read("generator") == b"its own"
    assert files.names("pictures") == ["pictures/a", "pictures/b"]


@pytest.mark.parametrize("links", [False, True], ids=["whole", "with a link to the files"])
def test_a_copied_project_has_its_own_files(
    original: Path, open_at: Callable[[Path], Studies], links: bool
) -> None:
    copy = original.with_name("b")
    if links:
        (original / "tuner-data" / "artifacts").rename(original / "disk")
        (original / "tuner-data" / "artifacts").symlink_to(original / "disk")
    before = contents(original)
    shutil.copytree(original, copy, symlinks=True)
    store = open_at(copy / "tuner-data" / "studies.db").store()
    assert_reads_and_writes(open_files(store))
    again = open_files(store)
    assert again.read("generator") == b"its own"
    assert again.keep_reason is None
    assert_unchanged(original, before)
    again.remove_all()
    assert_unchanged(original, before)
    own = open_files(open_at(original / "tuner-data" / "studies.db").store())
    assert (own.read("generator"), own.keep_reason, own.notice) == (b"original", None, None)


def _moved(folder: Path) -> Path:
    folder.rename(folder.with_name("b"))
    return folder.with_name("b") / "tuner-data" / "studies.db"


def _moved_to_another_disk(folder: Path) -> Path:
    shutil.copytree(folder, folder.with_name("b"))
    shutil.rmtree(folder)
    return folder.with_name("b") / "tuner-data" / "studies.db"


def _renamed(folder: Path) -> Path:
    return (folder / "tuner-data" / "studies.db").rename(folder / "tuner-data" / "other.db")


def _linked(folder: Path) -> Path:
    folder.with_name("b").symlink_to(folder)
    return folder.with_name("b") / "tuner-data" / "studies.db"


def _linked_database(folder: Path) -> Path:
    folder.with_name("b.db").symlink_to(folder / "tuner-data" / "studies.db")
    return folder.with_name("b.db")


@pytest.mark.parametrize(
    "change", [_moved, _moved_to_another_disk, _renamed, _linked, _linked_database]
)
def test_a_project_that_is_moved_or_linked_keeps_its_files(
    original: Path, open_at: Callable[[Path], Studies], change: Callable[[Path], Path]
) -> None:
    database = change(original)
    for _ in range(2):
        files = open_files(open_at(database).store())
        assert (files.notice, files.keep_reason) == (None, None)
        files.write("more", b"its own")
    assert_reads_and_writes(files)
    root = database.resolve().parent / "artifacts"
    assert len(list(root.iterdir())) == 1
    files.remove_all()
    assert list(root.iterdir()) == []


def test_a_copied_study_reads_old_files_and_writes_its_own(
    original: Path, open_at: Callable[[Path], Studies]
) -> None:
    before = contents(original)
    database = original / "tuner-data" / "studies.db"
    copy = shutil.copy(database, database.with_name("copy.db"))
    store = open_at(Path(copy)).store()
    copied_files = open_files(store)
    assert copied_files.read("generator") == b"original"
    assert copied_files.locate("generator") == str(next(original.rglob("generator")))
    assert contents(original) == before, "reading writes nothing"
    assert copied_files.notice is not None
    assert f"copy.db is a copy of {database}:" in copied_files.notice
    copied_files.remove_all()
    assert contents(original) == before
    assert_reads_and_writes(copied_files)
    assert_unchanged(original, before)
    again = open_files(open_at(Path(copy)).store())
    assert again.read("generator") == b"its own"
    assert again.own_names() == ["generator", "pictures/b", TOKEN]
    again.remove_all()
    assert contents(original) == before


def assert_unchanged(original: Path, before: Files) -> None:
    """Assert that the original's files are unchanged; others may lie next to them."""
    assert {name: data for name, data in contents(original).items() if name in before} == before


def test_workers_of_a_copy_agree_on_its_folder(
    original: Path, open_at: Callable[[Path], Studies]
) -> None:
    database = original / "tuner-data" / "studies.db"
    copy = Path(shutil.copy(database, database.with_name("copy.db")))
    workers = [open_files(open_at(copy).store()) for _ in range(3)]
    for number, files in enumerate(workers):
        files.write(f"file-{number}", b"x")
    assert len({files.place for files in workers}) == 1
    assert len(list((original / "tuner-data" / "artifacts").iterdir())) == 2


def test_a_restored_dump_leaves_the_originals_files_alone(
    postgres: Postgres, tmp_path: Path, open_at: Callable[[str], Studies]
) -> None:
    first, second = study_databases.template_database(postgres), "restored"
    url = postgres.new_database()
    name = str(sqlalchemy.make_url(url).database)
    postgres.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))
    _copy_database(postgres, first, name)
    studies = open_at(url)
    store = studies.create()
    files = open_files(store, str(tmp_path / "files"))
    files.write("generator", b"original")
    files.write("pictures/a", b"original")
    before = contents_of(tmp_path / "files")
    studies.close()
    store.database.rdb.engine.dispose()
    _copy_database(postgres, name, second)

    restored = open_at(postgres.url(second)).store()
    copy = open_files(restored)
    assert copy.keep_reason is not None
    assert postgres.url(name).rpartition("@")[2] in copy.keep_reason
    assert "p4ss" not in copy.keep_reason + str(copy.notice)
    assert_reads_and_writes(copy)
    after = contents_of(tmp_path / "files")
    assert {path: after[path] for path in before} == before
    steering.delete(restored)
    open_again = open_files(open_at(url).store())
    copy.remove_all()
    assert contents_of(tmp_path / "files") == before
    assert open_again.keep_reason is None
    open_again.write("generator", b"changed")
    assert open_again.notice is None


def _copy_database(postgres: Postgres, name: str, copy: str) -> None:
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
    postgres.execute(statement.format(sql.Identifier(copy), sql.Identifier(name)))


def contents_of(folder: Path) -> Files:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _downgrade(folder: Path, studies: Studies) -> None:
    """Store what the previous version did: an absolute path, and only a token."""
    root = folder / "tuner-data" / "artifacts"
    studies.rows("UPDATE tuner_studies SET artifacts = :root", root=str(root))
    for token in root.rglob(TOKEN):
        token.write_bytes(token.read_bytes().partition(b"\n")[0])


def test_a_study_of_the_previous_version_keeps_its_files(
    original: Path, open_at: Callable[[Path], Studies]
) -> None:
    database = Path("tuner-data", "studies.db")
    _downgrade(original, open_at(original / database))
    copy, moved = original.with_name("b"), original.with_name("c")
    shutil.copytree(original, copy)
    before = contents(original)
    files = open_files(open_at(copy / database).store())
    assert_reads_and_writes(files)
    files.remove_all()
    assert contents(original) == before
    original.rename(moved)
    files = open_files(open_at(moved / database).store())
    assert files.keep_reason is None
    assert_reads_and_writes(files)


def test_files_without_proof_of_ownership_are_kept(
    original: Path, open_at: Callable[[Path], Studies]
) -> None:
    """A copy of a previous version's database could otherwise remove the original's files."""
    database = original / "tuner-data" / "studies.db"
    _downgrade(original, open_at(database))
    copy = original.with_name("copy.db")
    shutil.copy(database, copy)
    files = open_files(open_at(copy).store())
    assert files.keep_reason is not None
    assert f"--artifacts {original}/tuner-data/artifacts" in files.keep_reason
    root = str(original / "tuner-data" / "artifacts")
    assert open_files(open_at(copy).store(), root).keep_reason is None


@pytest.mark.parametrize(
    "record", ["{", "[]", '{"database": 1}', '{"database": [], "folder": [1], "shown": 0}', "[" * 9]
)
def test_a_damaged_ownership_record_counts_as_missing(
    original: Path, open_at: Callable[[Path], Studies], record: Any
) -> None:
    [token] = original.rglob(TOKEN)
    token.write_bytes(token.read_bytes().partition(b"\n")[0] + b"\n" + record.encode() * 9999)
    files = open_files(open_at(original / "tuner-data" / "studies.db").store())
    assert_reads_and_writes(files)


def test_delete_leaves_the_files_of_another_database(
    original: Path, open_at: Callable[[Path], Studies], capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(original)
    database = original / "tuner-data" / "studies.db"
    copy = Path(shutil.copy(database, database.with_name("copy.db")))
    [folder] = (original / "tuner-data" / "artifacts").iterdir()
    delete("s", f"sqlite:///{copy}", None, yes=True)
    output = capsys.readouterr().out
    assert f"its 0 trials and no files: those in {folder} belong to {database}." in output
    assert contents(original) == before
    delete("s", f"sqlite:///{database}", None, yes=True)
    assert f"its 0 trials and the 3 files in {folder}." in capsys.readouterr().out
    assert contents(original) == {}
