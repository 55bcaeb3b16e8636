"""Output files are whole or unchanged; devices and pipes are written directly."""

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import command_line
import numpy as np
import pytest
import study_databases
from study_databases import Studies, run

import tuner.files.inception_weights
import tuner.files.study_files
import tuner.run.startup
import tuner.run.stored_generators
from tuner.cli.writing import check_target, write_output
from tuner.errors import InputError
from tuner.study.verdict import Complete

sqlite = study_databases.sqlite
COMMANDS = {
    "export": ("export", "s", "--out", "old.csv"),
    "plot": ("plot", "s", "--kind", "value", "--out", "old.html"),
    "replay": ("replay", "s", "--plot", "old.html"),
    "report": ("report", "s", "--out", "old.html"),
    "sample": ("sample", "s", "--trial", "0", "--out", "old.png"),
    "convert-inception": ("convert-inception", "in", "old"),
}
Call = Callable[..., int]


@pytest.fixture
def call(sqlite: Studies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run commands on a study of one trial, with made-up samples and weights."""
    sqlite.create()
    run(sqlite.join(), [3.0] * 4, Complete())
    black = np.zeros((4, 8, 8, 1), np.uint8)
    empty = SimpleNamespace(read=lambda name: None, names=lambda folder: [])
    monkeypatch.setattr(tuner.files.study_files, "open_files", lambda *_: empty)
    monkeypatch.setattr(tuner.run.startup, "code_change_warning", lambda *_: None)
    monkeypatch.setattr(tuner.run.stored_generators, "draw_samples", lambda *_: black)
    monkeypatch.setattr(tuner.files.inception_weights, "convert_inception", lambda *_: b"weights")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("TUNER_STORAGE", sqlite.url)

    return command_line.call


class FullDisk(io.FileIO):
    """A file whose writes fail halfway."""

    def write(self, data: Any) -> int:
        super().write(bytes(data)[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let writes to files in the working folder fail."""
    real = Path.open

    def opened(self: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        writes = set(mode) & set("wxa") and self.parent == Path.cwd()
        return FullDisk(self, mode[0]) if writes else real(self, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", opened)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_is_replaced(name: str, call: Call) -> None:
    old = Path(next(word for word in COMMANDS[name] if word.startswith("old")))
    old.write_text("old")
    assert call(*COMMANDS[name]) == 0
    assert old.read_bytes() not in (b"old", b"")
    assert os.listdir() == [old.name]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_failing_write_changes_nothing(
    name: str, call: Call, full_disk: None, capsys: pytest.CaptureFixture[str]
) -> None:
    old = next(word for word in COMMANDS[name] if word.startswith("old"))
    with open(old, "w") as file:
        file.write("old")
    assert call(*COMMANDS[name]) == 2
    assert capsys.readouterr().err.endswith(f": {old} can't be written: No space left on device\n")
    assert Path(old).read_text() == "old"
    assert os.listdir() == [old]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_missing_folder_is_found_before_the_work(
    name: str, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"no/{word}" if word.startswith("old") else word for word in COMMANDS[name]]
    assert call(*words) == 2
    assert capsys.readouterr().err.endswith("can't be written: No such file or directory\n")


def test_links_and_modes_are_kept(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to(file)
    write_output(link, b"new")
    assert link.is_symlink()
    assert file.read_bytes() == b"new"
    assert file.stat().st_mode & 0o777 == 0o640


def test_a_folder_is_refused_as_target(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"can't be written: Is a directory$"):
        check_target(tmp_path)


def test_a_pipe_is_written_directly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert check_target(pipe, (".html",)) == pipe
    write_output(pipe, b"page", "Report")
    assert os.read(reader, 100) == b"page"
    os.close(reader)
    assert capsys.readouterr() == ("", f"Report: {pipe}\n")
    assert os.listdir(tmp_path) == ["pipe"]


def test_standard_output_gets_the_data_alone(call: Call, sqlite: Studies) -> None:
    Path("log").write_text("before\n")
    with open("log", "a") as log:
        words = [sys.executable, "-P", "-m", "tuner.cli", "report", "s", "--out", "/dev/stdout"]
        done = subprocess.run(
            [*words, "--storage", sqlite.url, "--samples", "0"],
            stdout=log,
            stderr=subprocess.PIPE,
            text=True,
            check=True,
        )
    assert done.stderr == "Report of study 's': /dev/stdout\n"
    text = Path("log").read_text()
    assert text.startswith("before\n<!doctype html>")
    assert text.rstrip().endswith("</html>")
    assert os.listdir() == ["log"]
