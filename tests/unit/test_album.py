"""A trial's pictures on their way to the store: told of once they are there, never in the way."""

import json
import threading
from pathlib import Path

import pytest

from tuner.errors import StorageError, TunerError
from tuner.run.album import MOST_WAITING, Album, Picture, picture_of
from tuner.run.files import StudyFiles
from tuner.run.stores import open_store

TOKEN = "0123456789abcdef0123456789abcdef"


class Shaky:
    """A store whose files are a dictionary, and whose writes fail while ``failure`` is set."""

    def __init__(self) -> None:
        self.files = {"s-01234567/token": TOKEN.encode()}
        self.failure: TunerError | None = None
        self.attempts = 0
        self.tried = threading.Event()
        self.url = "shaky"

    def write(self, name: str, data: bytes) -> None:
        self.attempts += 1
        failure = self.failure
        if failure is not None:
            self.tried.set()
            raise failure
        self.files[name] = data

    def names(self, prefix: str) -> list[str]:
        return sorted(name for name in self.files if name.startswith(prefix))

    def read(self, name: str) -> bytes | None:
        return self.files.get(name)

    def remove(self, name: str) -> None:
        self.files.pop(name, None)

    def remove_all(self, prefix: str) -> None:
        self.files = {n: d for n, d in self.files.items() if not n.startswith(prefix)}

    def locate(self, name: str) -> str:
        return name


@pytest.fixture
def said() -> list[str]:
    return []


def album_of(store: Shaky, said: list[str]) -> Album:
    return Album(StudyFiles(store, "s-01234567"), TOKEN, 3, said.append)


def test_pictures_become_files_and_attributes(tmp_path: Path) -> None:
    files = StudyFiles(open_store(str(tmp_path)), "s").begin(TOKEN)
    album = Album(files, TOKEN, 3, print)
    album.add(1, lambda: b"one")
    album.add(0, lambda: b"curves")
    found = album.take(10)
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
    assert album.take(10) == {}
    assert album.artifacts() == {1: "01234567-00003-000001", 0: "01234567-00003-000000"}
    album.close()


@pytest.mark.parametrize("picture", [Picture(0, 0), Picture(3, 1), Picture(123456, 7654321)])
def test_an_artifact_tells_which_picture_it_is(picture: Picture) -> None:
    name = picture.artifact(TOKEN)
    assert picture_of(name) == (TOKEN[:8], picture)
    assert set(name) <= set("0123456789abcdef-")  # the dashboard's addresses know no other


@pytest.mark.parametrize("name", ["", "0123", "01234567-0123-4567-89ab-0123456789ab", "../x"])
def test_others_artifacts_are_none_of_ours(name: str) -> None:
    assert picture_of(name) is None


def test_a_store_that_is_away_is_told_of_once_and_tried_again(said: list[str]) -> None:
    store = Shaky()
    store.failure = StorageError("the store is away", transient=True)
    album = album_of(store, said)
    album.add(1, lambda: b"one")
    album.add(2, lambda: b"two")
    assert store.tried.wait(10)
    assert album.take(0) == {}
    while store.attempts < 3:
        store.tried.wait(0.01)
    store.failure = None
    assert len(album.take(30)) == 2
    assert said == ["the store is away; training goes on, the pictures are tried again"]
    album.close()


def test_what_can_not_be_written_is_left_out(said: list[str]) -> None:
    store = Shaky()
    store.failure = TunerError("the disk is full")
    album = album_of(store, said)
    for number in (1, 2):
        album.add(number, lambda: b"x")
    assert album.take(10) == {}
    assert said == ["the disk is full; training goes on, pictures are lost"]
    assert store.attempts == 2
    store.failure = None
    album.add(1, lambda: b"x")  # as the best one it comes again
    assert len(album.take(10)) == 1
    album.close()


def test_a_picture_that_can_not_be_made_fails_nothing(said: list[str]) -> None:
    album = album_of(Shaky(), said)
    album.add(1, lambda: bytes(1 // 0))
    album.add(2, lambda: b"two")
    assert list(album.artifacts()) == []
    assert list(album.take(10)) == ["artifacts:01234567-00003-000002"]
    assert len(said) == 1
    assert said[0].startswith("samples-epoch-000001.png can't be made: ZeroDivisionError")
    album.close()


def test_while_the_store_is_away_the_oldest_are_given_up(said: list[str]) -> None:
    store = Shaky()
    store.failure = StorageError("away", transient=True)
    album = album_of(store, said)
    album.add(1, lambda: b"x")
    assert store.tried.wait(10)  # it is on its way, and can't be called back
    last = MOST_WAITING + 3
    for number in range(2, last + 1):
        album.add(number, lambda: b"x")
    store.failure = None
    album.take(30)
    assert sorted(album.artifacts()) == [1, *range(last - MOST_WAITING + 2, last + 1)]
    album.close()


def test_the_end_waits_for_no_store(said: list[str]) -> None:
    store = Shaky()
    store.failure = StorageError("away", transient=True)
    album = album_of(store, said)
    album.add(1, lambda: b"x")
    assert store.tried.wait(10)
    album.close()
    assert album.take(10) == {}


def test_what_an_earlier_owner_left_is_told_of(said: list[str]) -> None:
    store = Shaky()
    first = album_of(store, said)
    for number in (0, 1, 12):
        first.add(number, lambda: b"first")
    first.take(10)
    second = album_of(store, said)
    second.remember()
    second.add(12, lambda: b"second")  # is there
    second.add(13, lambda: b"second")
    assert len(second.take(10)) == 4
    assert sorted(second.artifacts()) == [0, 1, 12, 13]
    assert store.files["s-01234567/pictures/trial-00003/samples-epoch-000012.png"] == b"first"
    first.close()
    second.close()


def test_nothing_is_written_for_a_study_that_was_deleted(said: list[str]) -> None:
    store = Shaky()
    store.files.clear()
    album = album_of(store, said)
    album.add(1, lambda: b"x")
    assert album.take(10) == {}
    assert store.files == {}
    [line] = said
    assert "s-01234567: the study was deleted, and its files with it" in line
    album.close()
