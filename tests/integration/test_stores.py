"""Store URLs, and folder stores under failures of the disk or the process."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from disks import mounted

from tuner import hints
from tuner.errors import InputError, StorageError, TunerError
from tuner.files.folders import DirectoryStore
from tuner.files.stores import ArtifactStore, open_store

LARGE = 64_000_000  # bytes; large enough to be killed while writing


def files_in(folder: Path) -> list[str]:
    """All files, hidden ones included."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("place", ["here/files", "./here/../here/files", "file://{}/here/files"])
def test_a_folder_is_known_by_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store(place.format(tmp_path))
    assert store.url == str(tmp_path / "here" / "files")
    store.write("study/a", b"content")
    monkeypatch.chdir("/")
    assert open_store(store.url).read("study/a") == b"content"
    assert Path(store.locate("study/a")).read_bytes() == b"content"


def test_a_file_url_may_be_quoted_and_name_this_machine(tmp_path: Path) -> None:
    store = open_store(f"file://localhost{tmp_path}/two%20words%3F")
    assert store.url == f"{tmp_path}/two words?"
    assert open_store(store.url).url == store.url


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", r"empty; give a folder or a URL"),
        (
            "http://host/x",
            r"http:// is not supported; give a folder, or a URL with s3://, gs://, file://",
        ),
        ("postgresql://me:pass-word@host/x", r"postgresql:// is not supported"),
        ("file:x", r"not a valid file URL; write file:// and an absolute path"),
        ("file://x/y", r"not a valid file URL"),
        ("file://me:pass-word@host/y", r"not a valid file URL"),
        (
            "s3://",
            r"not a valid s3 URL; write s3://BUCKET or s3://BUCKET/PREFIX",
        ),
        ("s3:bucket", r"not a valid s3 URL"),
        ("gs:///prefix", r"not a valid gs URL"),
        ("s3://bucket/../other", r"not a valid s3 URL"),
        ("s3://bucket//x", r"not a valid s3 URL"),
        ("s3://bucket/x?versionId=1", r"not a valid s3 URL"),
        ("s3://me:pass-word@bucket/x", r"without credentials"),
        ("s3://me:pass-word/with@bucket/x", r"without credentials"),
        ("s3://pass-word@bucket", r"without credentials"),
    ],
)
def test_an_invalid_store_is_refused_without_showing_passwords(url: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^artifacts: .*{message}") as caught:
        open_store(url)
    assert "pass-word" not in str(caught.value)


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, scheme: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # Python treats this as not installed
    with pytest.raises(InputError) as caught:
        open_store(f"{scheme}://bucket/x")
    problem = f"artifacts: {scheme}:// needs the package {package}"
    assert str(caught.value) == f"{problem}; install it with {hints.install(scheme)}"


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "..", "a/../b", ".a", "a/.b", "a?b", "é"])
def test_names_outside_the_store_are_refused(tmp_path: Path, name: str) -> None:
    for store in (DirectoryStore(tmp_path / "store"), open_store("s3://bucket/x")):
        for method in (store.read, store.names, store.remove, store.remove_all, store.locate):
            with pytest.raises(ValueError, match="invalid file name"):
                method(name)
        with pytest.raises(ValueError, match="invalid file name"):
            store.write(name, b"")
    assert files_in(tmp_path) == []


def test_file_modes_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        DirectoryStore(tmp_path).write("study/a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "study" / "a").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "study").stat().st_mode & 0o777 == 0o750


def test_foreign_files_are_unlisted_but_removed_with_the_folder(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.write("study/a", b"")
    for name in (".0123.part", ".DS_Store", "two words"):
        (tmp_path / "study" / name).touch()
    assert store.names("study") == ["study/a"]
    store.remove_all("study")
    assert not (tmp_path / "study").exists()


def test_a_folder_may_be_removed_concurrently(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    for _ in range(3):
        (tmp_path / "study" / "a").mkdir(parents=True)
        for number in range(300):
            (tmp_path / "study" / "a" / f"{number}").touch()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(store.remove_all, ["study"] * 4))
        assert store.names("study") == []


def test_a_folder_that_disappears_while_it_is_created_is_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python then raises FileExistsError for a folder that does not exist."""
    mkdir, lost = os.mkdir, [1, 1]

    def disappearing(path: str, mode: int) -> None:
        if lost and lost.pop():
            raise FileExistsError(path)
        mkdir(path, mode)

    monkeypatch.setattr(os, "mkdir", disappearing)
    store = DirectoryStore(tmp_path)
    store.write("study/pictures/a", b"content")
    assert store.read("study/pictures/a") == b"content"
    assert lost == []
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for in_the_way in ("file", "link"):
        with pytest.raises(TunerError, match=r"can't be written: (File exists|Not a directory)"):
            store.write(f"{in_the_way}/pictures/a", b"")


def test_writes_sync_the_file_then_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DirectoryStore(tmp_path)
    store.write("study/a", b"before")
    synced = []

    def spy(descriptor: int) -> None:
        status = os.fstat(descriptor)
        synced.append((status.st_ino, status.st_size, store.read("study/a")))

    monkeypatch.setattr(os, "fsync", spy)
    store.write("study/a", b"afterwards")
    file, folder = (tmp_path / "study" / "a").stat(), (tmp_path / "study").stat()
    assert synced == [
        (file.st_ino, len(b"afterwards"), b"before"),
        (folder.st_ino, folder.st_size, b"afterwards"),
    ]


WRITER = """
import sys
from tuner.files.folders import DirectoryStore
store = DirectoryStore(sys.argv[1])
while True:
    for letter in (b"a", b"b"):
        store.write("study/file", letter * int(sys.argv[2]))
        print("written", flush=True)
"""


def test_a_kill_while_writing_leaves_the_file_whole(tmp_path: Path) -> None:
    killed_in_the_middle = 0
    for _ in range(10):
        kill_a_writer(tmp_path)
        content = DirectoryStore(tmp_path).read("study/file")
        assert content in (b"a" * LARGE, b"b" * LARGE)
        assert DirectoryStore(tmp_path).names("study") == ["study/file"]
        killed_in_the_middle += len(files_in(tmp_path)) > 1
        if killed_in_the_middle == 2:
            return
        DirectoryStore(tmp_path).remove_all("study")
    raise AssertionError("no process was killed in the middle of a write")


def kill_a_writer(folder: Path) -> None:
    """Kill a process during its second write."""
    command = [sys.executable, "-c", WRITER, str(folder), str(LARGE)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        limit = time.monotonic() + 20
        while not any((folder / "study").glob(".*.part")):
            assert time.monotonic() < limit
        process.kill()
    assert process.returncode == -signal.SIGKILL


def check_failed_write(store: ArtifactStore, name: str, data: bytes, message: str) -> None:
    """Check that the write fails permanently, in one line with the reason."""
    with pytest.raises(TunerError) as caught:
        store.write(name, data)
    assert str(caught.value) == f"{store.locate(name)}: can't be written: {message}"
    assert not isinstance(caught.value, StorageError)


def test_a_full_disk_keeps_the_previous_file(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    with mounted(folder, "-o", "size=256k"):
        store = DirectoryStore(folder)
        store.write("study/a", b"before")
        check_failed_write(store, "study/a", bytes(300_000), "No space left on device")
        assert store.read("study/a") == b"before"
        assert files_in(folder) == ["study/a"]
        store.write("study/a", bytes(100_000))


def test_a_read_only_disk_is_still_read(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    with mounted(folder):
        store = DirectoryStore(folder)
        store.write("study/a", b"before")
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        check_failed_write(store, "study/a", b"after", "Read-only file system")
        with pytest.raises(TunerError, match="study/a: can't be removed: Read-only file system"):
            store.remove("study/a")
        with pytest.raises(TunerError, match="study: can't be removed: Read-only file system"):
            store.remove_all("study")
        assert store.read("study/a") == b"before"
        assert store.names("study") == ["study/a"]


def test_exceeding_the_file_size_limit_keeps_the_previous_file(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.write("study/a", b"before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        check_failed_write(store, "study/a", bytes(6000), "File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert store.read("study/a") == b"before"
    assert files_in(tmp_path) == ["study/a"]


def test_a_path_in_the_way_is_named(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.write("study/a", b"before")
    check_failed_write(store, "study/a/b", b"", "File exists")
    check_failed_write(store, "study/a/b/c", b"", "Not a directory")
    check_failed_write(store, "study", b"", "Is a directory")
    check_failed_write(store, "x" * 300, b"", "File name too long")
    with pytest.raises(TunerError, match=r"a/b: can't be read: Not a directory"):
        store.read("study/a/b")
    assert files_in(tmp_path) == ["study/a"]


@pytest.mark.skipif(
    sys.platform != "linux",
    reason="only Linux has a file that always fails to be read: /proc/self/mem",
)
def test_an_io_error_while_reading_is_transient() -> None:
    """No memory is mapped at address 0, so reading there is a real EIO."""
    with pytest.raises(
        StorageError, match=r"^/proc/self/mem: can't be read: Input/output error$"
    ) as caught:
        DirectoryStore("/proc/self").read("mem")
    assert caught.value.transient


@pytest.mark.parametrize(
    ("number", "transient"),
    [
        *((number, True) for number in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)),
        *((number, True) for number in (errno.EHOSTDOWN, errno.ENOTCONN)),
        *((number, False) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)),
        *((number, False) for number in (errno.EACCES, errno.EPERM)),
    ],
)
def test_a_write_failing_at_its_end_keeps_the_previous_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, transient: bool
) -> None:
    """Network file systems report some errors only at fsync."""

    def fail(descriptor: int) -> Any:
        raise OSError(number, os.strerror(number))

    store = DirectoryStore(tmp_path)
    store.write("study/a", b"before")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(TunerError, match=f"a: can't be written: {os.strerror(number)}$") as e:
            store.write("study/a", b"after")
    assert isinstance(e.value, StorageError) == transient
    assert getattr(e.value, "transient", False) == transient
    assert store.read("study/a") == b"before"
    assert files_in(tmp_path) == ["study/a"]
