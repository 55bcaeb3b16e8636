"""Location of a study's files, and protection from other studies' stores."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import study_databases
from study_databases import Studies

from tuner.errors import InputError, StorageError, TunerError
from tuner.files.folders import DirectoryStore
from tuner.files.study_files import TOKEN, StudyFiles, begin_study, open_files
from tuner.spec.study import LONGEST_NAME
from tuner.study import steering

url, studies, sqlite = study_databases.url, study_databases.studies, study_databases.sqlite


def test_the_first_worker_records_the_artifact_store(
    sqlite: Studies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = sqlite.create()
    monkeypatch.delenv("TUNER_ARTIFACTS", raising=False)
    monkeypatch.chdir(tmp_path)
    files = open_files(store, str(tmp_path / "here"))
    files.write("a/b", b"content")
    assert sqlite.store().artifacts == str(tmp_path / "here")
    assert files.locate("a/b") == str(tmp_path / "here" / store.folder / "a" / "b")
    monkeypatch.chdir("/")
    again = open_files(sqlite.store())
    assert again.read("a/b") == b"content"
    assert again.names("a") == ["a/b"]
    assert token_of(again) == store.token


def token_of(files: StudyFiles) -> str:
    return (files.read(TOKEN) or b"").decode().partition("\n")[0]


def test_machine_problems_are_found_before_a_study_is_created(
    sqlite: Studies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = sqlite.open()
    (tmp_path / "file").touch()
    with pytest.raises(TunerError, match=r"can't be written: Not a directory"):
        begin_study(database, study_databases.spec(), str(tmp_path / "file" / "folder"))
    for wrong in ("64G", "-1", "nan"):
        monkeypatch.setenv("TUNER_IMAGE_MEMORY", wrong)
        with pytest.raises(InputError, match=f"TUNER_IMAGE_MEMORY: found '{wrong}'"):
            begin_study(database, study_databases.spec(), str(tmp_path / "here"))
    assert database.study_names() == []
    monkeypatch.setenv("TUNER_IMAGE_MEMORY", "6e9")
    store, files = begin_study(database, study_databases.spec(), str(tmp_path / "here"))
    written = [path for path in (tmp_path / "here").rglob("*") if path.is_file()]
    assert written == [Path(files.locate(TOKEN))]
    # An existing study keeps its store, whatever the default is now.
    monkeypatch.setenv("TUNER_ARTIFACTS", str(tmp_path / "file" / "folder"))
    again, files = begin_study(database, study_databases.spec())
    assert (again.token, files.store.url) == (store.token, str(tmp_path / "here"))


def test_files_are_in_the_default_store_by_default(
    sqlite: Studies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNER_ARTIFACTS", str(tmp_path / "default"))
    assert open_files(sqlite.create()).store.url == str(tmp_path / "default")


def test_a_study_of_the_longest_name_has_a_folder(sqlite: Studies, tmp_path: Path) -> None:
    name = "a" * LONGEST_NAME
    store = sqlite.create(name=name)
    assert token_of(open_files(store, str(tmp_path))) == store.token


def test_a_store_without_the_studys_files_is_refused(sqlite: Studies, tmp_path: Path) -> None:
    store = sqlite.create()
    open_files(store, str(tmp_path / "here")).write("a", b"content")
    other = tmp_path / "other"
    line = f"no files of study 's' at {other}, but at {tmp_path}/here"
    with pytest.raises(StorageError, match=line):
        open_files(sqlite.store(), str(other))
    assert not other.exists()
    (tmp_path / "here").rename(other)  # as mounted on another machine
    assert open_files(sqlite.store(), str(other)).read("a") == b"content"
    with pytest.raises(StorageError, match="no files of study 's'") as caught:
        open_files(sqlite.store())
    assert str(caught.value).count(str(tmp_path)) == 1


def test_a_later_worker_with_another_store_writes_nothing_to_it(
    sqlite: Studies, tmp_path: Path
) -> None:
    store, later = sqlite.create(), sqlite.store()  # opened before the artifact store was recorded
    open_files(store, str(tmp_path / "here"))
    with pytest.raises(StorageError, match="no files of study 's'"):
        open_files(later, str(tmp_path / "there"))
    assert not (tmp_path / "there").exists()


def test_files_of_another_databases_study_are_refused(sqlite: Studies, tmp_path: Path) -> None:
    store = sqlite.create()
    files = open_files(store, str(tmp_path))
    files.write(TOKEN, b"of another study")
    with pytest.raises(StorageError, match="no files of study 's'"):
        open_files(sqlite.store())


def test_removing_a_study_removes_its_folder(sqlite: Studies, tmp_path: Path) -> None:
    files = open_files(sqlite.create(), str(tmp_path))
    files.store.write("extractors/shared", b"of all studies")
    for name in ("a", "folder/b", "folder/deep/c"):
        files.write(name, b"content")
    files.remove_all("folder")
    assert files.names("folder") == []
    assert files.read("a") == b"content"
    files.remove_all()
    assert files.read("a") is None
    assert files.store.names("extractors") == ["extractors/shared"]


def test_deleting_a_study_during_writes_leaves_no_files(tmp_path: Path) -> None:
    for _ in range(30):
        deleted, began = threading.Event(), threading.Barrier(3)

        def exists(deleted: threading.Event = deleted) -> bool:
            return not deleted.is_set()

        files = StudyFiles(DirectoryStore(tmp_path), "s", exists).begin("token")

        def write(name: str, files: StudyFiles = files, began: threading.Barrier = began) -> str:
            began.wait()
            for _ in range(100_000):
                try:
                    files.write(name, b"x")
                except StorageError as error:
                    if not error.transient:
                        return str(error)
            return "never failed"

        with ThreadPoolExecutor(2) as pool:
            writing = [pool.submit(write, name) for name in ("a", "pictures/b")]
            began.wait()
            deleted.set()
            files.remove_all()
        for future in writing:
            assert future.result() == "s: the study was deleted, and its files with it"
        assert not (tmp_path / "s").exists()


def test_nothing_is_removed_where_the_token_is_missing(studies: Studies, tmp_path: Path) -> None:
    store = studies.create()
    files = open_files(store, str(tmp_path / "files"))
    files.write("generator", b"kept")
    Path(files.locate(TOKEN)).unlink()
    for write in (files.write, files.write_shared):
        with pytest.raises(StorageError, match=f"^{files.locate(TOKEN)}: missing") as caught:
            write("picture", b"new")
        assert caught.value.transient
    assert names_in(tmp_path / "files") == ["generator"]
    # Nor while the database can't tell whether the study exists.
    studies.rows("ALTER TABLE tuner_studies RENAME TO away")
    with pytest.raises(StorageError):
        files.write("picture", b"new")
    studies.rows("ALTER TABLE away RENAME TO tuner_studies")
    files.begin(store.token)
    files.write("picture", b"new")
    assert names_in(tmp_path / "files") == ["generator", "picture", "token"]


def test_nothing_is_written_where_a_mount_is_missing(sqlite: Studies, tmp_path: Path) -> None:
    store = sqlite.create()
    mount = tmp_path / "mount"
    files = open_files(store, str(mount))
    files.write("generator", b"kept")
    mount.rename(tmp_path / "elsewhere")
    mount.mkdir()
    for attempt in (
        lambda: files.write("picture", b"new"),
        lambda: files.write_shared("extractors/x", b"new"),
        lambda: open_files(sqlite.store()),
    ):
        with pytest.raises(StorageError):
            attempt()
    assert list(mount.iterdir()) == []
    mount.rmdir()
    (tmp_path / "elsewhere").rename(mount)
    files.write("picture", b"new")
    assert names_in(mount) == ["generator", "picture", "token"]


def test_a_study_with_a_reused_id_is_another_study(sqlite: Studies, tmp_path: Path) -> None:
    """SQLite gives the id of a deleted study to the next one."""
    store = sqlite.create()
    files = open_files(store, str(tmp_path / "files"))
    assert store.exists()
    steering.delete(store)
    assert not store.exists()
    assert sqlite.create().study_id == store.study_id
    assert not store.exists()
    assert store.ended() == set()
    files.remove_all()
    with pytest.raises(StorageError, match="the study was deleted"):
        files.write("a", b"x")
    assert names_in(tmp_path / "files") == []


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())
