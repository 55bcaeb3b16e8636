"""Background uploads of a trial's pictures."""

import json
import threading
from pathlib import Path

import pytest

from tuner.environment import Place
from tuner.errors import StorageError, TunerError
from tuner.files.pictures import MAX_WAITING, Picture, PictureUploader, picture_of
from tuner.files.stores import open_store
from tuner.files.study_files import StudyFiles

TOKEN = "0123456789abcdef0123456789abcdef"


class UnreliableStore:
    """A store in memory whose writes raise ``failure`` while it is set."""

    def __init__(self) -> None:
        self.files = {"s-01234567/token": TOKEN.encode()}
        self.failure: TunerError | None = None
        self.attempts = 0
        self.attempted = threading.Event()
        self.url = "memory"

    def write(self, name: str, data: bytes) -> None:
        self.attempts += 1
        failure = self.failure
        if failure is not None:
            self.attempted.set()
            raise failure
        self.files[name] = data

    def names(self, prefix: str) -> list[str]:
        return sorted(name for name in self.files if name.startswith(prefix))

    def read(self, name: str, most: int = 0) -> bytes | None:
        return self.files.get(name)

    def remove(self, name: str) -> None:
        self.files.pop(name, None)

    def remove_all(self, prefix: str) -> None:
        self.files = {n: d for n, d in self.files.items() if not n.startswith(prefix)}

    def locate(self, name: str) -> str:
        return name

    def place(self, folder: str) -> Place:
        return Place("", folder)


@pytest.fixture
def messages() -> list[str]:
    return []


def uploader_of(
    store: UnreliableStore, messages: list[str], exists: bool = True
) -> PictureUploader:
    return PictureUploader(
        StudyFiles(store, "s-01234567", lambda: exists), TOKEN, 3, messages.append
    )


def test_pictures_become_files_and_attributes(tmp_path: Path) -> None:
    files = StudyFiles(open_store(str(tmp_path)), "s").begin(TOKEN)
    uploader = PictureUploader(files, TOKEN, 3, print)
    uploader.add(1, lambda: b"one")
    uploader.add(0, lambda: b"curves")
    found = uploader.take(10)
    assert list(found) == ["artifacts:01234567-00003-000001", "artifacts:01234567-00003-000000"]
    assert json.loads(found["artifacts:01234567-00003-000001"]) == {
        "artifact_id": "01234567-00003-000001",
        "filename": "samples-epoch-000001.png",
        "mimetype": "image/png",
        "encoding": None,
    }
    folder = tmp_path / "s/pictures/trial-00003"
    assert (folder / "samples-epoch-000001.png").read_bytes() == b"one"
    assert (folder / "curves.svg").read_bytes() == b"curves"
    assert uploader.take(10) == {}
    assert uploader.artifacts() == {1: "01234567-00003-000001", 0: "01234567-00003-000000"}
    uploader.close()


@pytest.mark.parametrize("picture", [Picture(0, 0), Picture(3, 1), Picture(123456, 7654321)])
def test_artifact_ids_identify_pictures(picture: Picture) -> None:
    name = picture.artifact(TOKEN)
    assert picture_of(name) == (TOKEN[:8], picture)
    assert set(name) <= set("0123456789abcdef-")  # what the dashboard's URLs allow


@pytest.mark.parametrize("name", ["", "0123", "01234567-0123-4567-89ab-0123456789ab", "../x"])
def test_other_artifacts_are_ignored(name: str) -> None:
    assert picture_of(name) is None


def test_an_unreachable_picture_store_is_announced_once_and_retried(messages: list[str]) -> None:
    store = UnreliableStore()
    store.failure = StorageError("the store is away", transient=True)
    uploader = uploader_of(store, messages)
    uploader.add(1, lambda: b"one")
    uploader.add(2, lambda: b"two")
    assert store.attempted.wait(10)
    assert uploader.take(0) == {}
    while store.attempts < 3:
        store.attempted.wait(0.01)
    store.failure = None
    assert len(uploader.take(30)) == 2
    assert messages == ["the store is away; training continues, the pictures will be retried"]
    uploader.close()


def test_unwritable_pictures_are_left_out(messages: list[str]) -> None:
    store = UnreliableStore()
    store.failure = TunerError("the disk is full")
    uploader = uploader_of(store, messages)
    for number in (1, 2):
        uploader.add(number, lambda: b"x")
    assert uploader.take(10) == {}
    assert messages == ["the disk is full; training continues without the pictures"]
    assert store.attempts == 2
    store.failure = None
    uploader.add(1, lambda: b"x")  # added again as the best one
    assert len(uploader.take(10)) == 1
    uploader.close()


def test_a_picture_that_fails_to_draw_is_left_out(messages: list[str]) -> None:
    uploader = uploader_of(UnreliableStore(), messages)
    uploader.add(1, lambda: bytes(1 // 0))
    uploader.add(2, lambda: b"two")
    assert list(uploader.artifacts()) == []
    assert list(uploader.take(10)) == ["artifacts:01234567-00003-000002"]
    assert len(messages) == 1
    assert messages[0].startswith(
        "pictures/trial-00003/samples-epoch-000001.png: can't be written: ZeroDivisionError"
    )
    uploader.close()


def test_during_an_outage_the_oldest_pictures_are_dropped(messages: list[str]) -> None:
    store = UnreliableStore()
    store.failure = StorageError("away", transient=True)
    uploader = uploader_of(store, messages)
    uploader.add(1, lambda: b"x")
    assert store.attempted.wait(10)  # this upload has started and cannot be dropped
    last = MAX_WAITING + 4
    for number in range(2, last + 1):
        uploader.add(number, lambda: b"x")
    store.failure = None
    uploader.take(30)
    assert sorted(uploader.artifacts()) == [1, *range(last - MAX_WAITING + 1, last + 1)]
    uploader.close()


def test_closing_does_not_wait_for_the_store(messages: list[str]) -> None:
    store = UnreliableStore()
    store.failure = StorageError("away", transient=True)
    uploader = uploader_of(store, messages)
    uploader.add(1, lambda: b"x")
    assert store.attempted.wait(10)
    uploader.close()
    assert uploader.take(10) == {}


def test_pictures_of_an_earlier_owner_are_announced(messages: list[str]) -> None:
    store = UnreliableStore()
    first = uploader_of(store, messages)
    for number in (0, 1, 12):
        first.add(number, lambda: b"first")
    first.take(10)
    second = uploader_of(store, messages)
    second.remember()
    second.add(12, lambda: b"second")  # already uploaded
    second.add(13, lambda: b"second")
    assert len(second.take(10)) == 4
    assert sorted(second.artifacts()) == [0, 1, 12, 13]
    assert store.files["s-01234567/pictures/trial-00003/samples-epoch-000012.png"] == b"first"
    first.close()
    second.close()


def test_nothing_is_written_for_a_study_that_was_deleted(messages: list[str]) -> None:
    store = UnreliableStore()
    store.files.clear()
    uploader = uploader_of(store, messages, exists=False)
    uploader.add(1, lambda: b"x")
    assert uploader.take(10) == {}
    assert store.files == {}
    [line] = messages
    assert "s-01234567: the study was deleted, and its files with it" in line
    uploader.close()
