"""Where a study's files are: one place for all of its workers, told from all others."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import workplace
from workplace import Studies

from tuner.errors import InputError, StorageError, TunerError
from tuner.run.files import TOKEN, StudyFiles, begin_study, open_files
from tuner.run.folders import DirectoryStore
from tuner.spec import LONGEST_NAME

sqlite = workplace.sqlite


def test_the_first_worker_says_where_they_are(
    sqlite: Studies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = sqlite.make()
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
    assert again.read(TOKEN) == store.token.encode()


def test_what_this_machine_can_not_do_is_found_before_there_is_a_study(
    sqlite: Studies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = sqlite.open()
    (tmp_path / "file").touch()
    with pytest.raises(TunerError, match=r"can't be written: Not a directory"):
        begin_study(database, workplace.spec(), str(tmp_path / "file" / "folder"))
    for wrong in ("64G", "-1", "nan"):
        monkeypatch.setenv("TUNER_IMAGE_MEMORY", wrong)
        with pytest.raises(InputError, match=f"TUNER_IMAGE_MEMORY: found '{wrong}'"):
            begin_study(database, workplace.spec(), str(tmp_path / "here"))
    assert database.study_names() == []
    monkeypatch.setenv("TUNER_IMAGE_MEMORY", "6e9")
    store, files = begin_study(database, workplace.spec(), str(tmp_path / "here"))
    written = [path for path in (tmp_path / "here").rglob("*") if path.is_file()]
    assert written == [Path(files.locate(TOKEN))]
    # One that is there already keeps its place, whatever is the default now.
    monkeypatch.setenv("TUNER_ARTIFACTS", str(tmp_path / "file" / "folder"))
    again, files = begin_study(database, workplace.spec())
    assert (again.token, files.store.url) == (store.token, str(tmp_path / "here"))


def test_by_default_they_are_in_the_default_place(
    sqlite: Studies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNER_ARTIFACTS", str(tmp_path / "default"))
    assert open_files(sqlite.make()).store.url == str(tmp_path / "default")


def test_a_study_of_the_longest_name_has_a_folder(sqlite: Studies, tmp_path: Path) -> None:
    name = "a" * LONGEST_NAME
    store = sqlite.make(name=name)
    assert open_files(store, str(tmp_path)).read(TOKEN) == store.token.encode()


def test_a_place_that_is_not_theirs_is_refused(sqlite: Studies, tmp_path: Path) -> None:
    store = sqlite.make()
    open_files(store, str(tmp_path / "here")).write("a", b"content")
    other = tmp_path / "other"
    line = f"no files of study 's' at {other}, expected those at {tmp_path}/here"
    with pytest.raises(StorageError, match=line):
        open_files(sqlite.store(), str(other))
    assert not other.exists()
    (tmp_path / "here").rename(other)  # as another machine may have mounted it
    assert open_files(sqlite.store(), str(other)).read("a") == b"content"
    with pytest.raises(StorageError, match="found no files of study 's'"):
        open_files(sqlite.store())


def test_who_is_later_at_another_place_leaves_nothing_there(
    sqlite: Studies, tmp_path: Path
) -> None:
    store, late = sqlite.make(), sqlite.store()  # the late one looked before the first one wrote
    open_files(store, str(tmp_path / "here"))
    with pytest.raises(StorageError, match="found no files of study 's'"):
        open_files(late, str(tmp_path / "there"))
    assert [path for path in (tmp_path / "there").rglob("*") if path.is_file()] == []


def test_another_databases_study_of_that_name_has_others(sqlite: Studies, tmp_path: Path) -> None:
    store = sqlite.make()
    files = open_files(store, str(tmp_path))
    files.write(TOKEN, b"of another study")
    with pytest.raises(StorageError, match="found no files of study 's'"):
        open_files(sqlite.store())


def test_all_goes_with_the_folder(sqlite: Studies, tmp_path: Path) -> None:
    files = open_files(sqlite.make(), str(tmp_path))
    files.store.write("extractors/shared", b"of all studies")
    for name in ("a", "folder/b", "folder/deep/c"):
        files.write(name, b"content")
    files.remove_all("folder")
    assert files.names("folder") == []
    assert files.read("a") == b"content"
    files.remove_all()
    assert files.read("a") is None
    assert files.store.names("extractors") == ["extractors/shared"]


def test_nothing_stays_of_a_study_that_is_deleted_while_others_write(tmp_path: Path) -> None:
    """Whatever each of them saw of it before it went."""
    for _ in range(30):
        files = StudyFiles(DirectoryStore(tmp_path), "s").begin("token")
        began = threading.Barrier(3)

        def write(name: str, files: StudyFiles = files, began: threading.Barrier = began) -> str:
            began.wait()
            for _ in range(100_000):
                try:
                    files.write(name, b"x")
                except StorageError as error:
                    if not error.transient:
                        return str(error)
            return "was never told"

        with ThreadPoolExecutor(2) as pool:
            writing = [pool.submit(write, name) for name in ("a", "pictures/b")]
            began.wait()
            files.remove_all()
        for future in writing:
            assert future.result() == "s: the study was deleted, and its files with it"
        assert not (tmp_path / "s").exists()
