"""Standard output and error: closed pipes and terminals, other encodings, hostile escapes."""

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import study_databases
from rich.table import Table
from rich.text import Text
from study_databases import MACHINE, Studies

from tuner.cli.main import Output
from tuner.run.events import EventWriter
from tuner.study.session import WorkerSession
from tuner.views.console import UNLIMITED, Terminal, TolerantStream, harmless

sqlite = study_databases.sqlite
HOSTILE = "a\x1b[2J\x9b31m\x07\r\u202e\u2066b\udcff\x7f"
COMMAND = [sys.executable, "-P", "-m", "tuner.cli"]


def open_pty() -> tuple[int, int]:
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 70, 0, 0))
    return reader, writer


def closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def closed_terminal() -> int:
    reader, writer = open_pty()
    os.close(reader)
    return writer


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize("make", [closed_pipe, closed_terminal, full_disk])
def test_output_outlives_its_reader(make: Callable[[], int]) -> None:
    descriptor = make()
    stream = Output(descriptor, "utf-8")
    for _ in range(3):
        stream.write("x" * 100_000)
        stream.flush()
    assert isinstance(stream.failure, OSError)
    stream.close()
    os.close(descriptor)


@pytest.mark.parametrize("make", [closed_pipe, closed_terminal, full_disk])
def test_a_terminal_survives_a_closed_python_stream(make: Callable[[], int]) -> None:
    descriptor = make()
    stream = os.fdopen(descriptor, "w", encoding="utf-8", closefd=False)
    with pytest.raises(OSError, match=r"^\[Errno"):
        print("x" * 100_000, file=stream, flush=True)
    console = Terminal(file=TolerantStream(stream))
    for _ in range(3):
        console.print("x" * 100_000, soft_wrap=True)
    with suppress(OSError):
        stream.close()
    console.print("after closing")
    assert not TolerantStream(stream).isatty()
    os.close(descriptor)


def test_unencodable_text_is_escaped_on_a_python_stream() -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, "ascii", newline="")
    Terminal(file=TolerantStream(stream)).print("FID … \udcff")
    assert written.getvalue() == b"FID \\u2026 \\ufffd\n"


def test_unencodable_text_is_escaped() -> None:
    reader, writer = os.pipe()
    with Output(writer, "ascii") as stream:
        stream.write("FID … \udcff")
    assert stream.failure is None
    os.close(writer)
    assert os.read(reader, 100) == b"FID \\u2026 \\udcff"
    os.close(reader)


def test_control_characters_are_replaced() -> None:
    shown = harmless(HOSTILE)
    assert len(shown) == len(HOSTILE)
    assert shown == "a␛[2J�31m␇␍��b��"
    assert harmless("naïve\tFID 12.5\n日本 \u200d") == "naïve\tFID 12.5\n日本 \u200d"


def test_a_console_prints_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    console = Terminal()
    table = Table(HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE, style="bold"))
    for shown in (HOSTILE, Text(HOSTILE), table):
        console.print(shown)
    text = capsys.readouterr().out
    assert text.count("␛") == 5
    assert not set("\x1b\x9b\x07\r\u202e\u2066\x7f\udcff") & set(text)


def test_a_console_is_as_wide_as_its_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = open_pty()
    with Output(writer, "utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setenv("TERM", "dumb")
        for columns, width in (("", 70), ("0", 70), ("²", 70), ("x", 70), ("50", 50)):
            monkeypatch.setenv("COLUMNS", columns)
            assert Terminal().width == width
    os.close(reader)
    os.close(writer)


def test_a_table_in_a_pipe_is_as_wide_as_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert Terminal().width == UNLIMITED


def test_a_worker_notices_that_its_events_have_no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[str] = []
    descriptor = closed_pipe()
    with Output(descriptor, "utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        writer = EventWriter(lambda: left.append("orphaned"))
        writer.announce("one")
        writer.announce("two")
    monkeypatch.undo()
    os.close(descriptor)
    assert left == ["orphaned"]


@pytest.fixture
def hostile_study(sqlite: Studies) -> Iterator[Studies]:
    """A study with a worker whose host name contains escape sequences."""
    store = sqlite.create()
    session = WorkerSession(store, MACHINE | {"device": HOSTILE[:-2]}, sqlite.messages.append, 20.0)
    with session.joined():
        study_databases.claim(session)
        sqlite.rows("UPDATE tuner_workers SET host = :host", host=HOSTILE[:-2])
        sqlite.rows("UPDATE tuner_leases SET prune_reason = :why", why=HOSTILE[:-2])
        yield sqlite


def test_commands_exit_quietly_without_a_reader(hostile_study: Studies) -> None:
    """In a locale other than UTF-8, with hostile text to print."""
    locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    environment = os.environ | locale | {"PYTHONWARNINGS": "error"}
    words = [*COMMAND, "status", "s", "--storage", hostile_study.url]
    read = subprocess.run(words, env=environment, capture_output=True)
    assert (read.returncode, read.stderr) == (0, b"")
    assert not {0x1B, 0x9B, 0x07} & set(read.stdout)
    assert read.stdout.isascii()
    for make, code, error in ((closed_pipe, 0, b""), (full_disk, 1, b"No space left on device\n")):
        output = make()
        found = subprocess.run(words, env=environment, stdout=output, stderr=subprocess.PIPE)
        os.close(output)
        assert (found.returncode, found.stderr.rpartition(b": ")[2]) == (code, error)
    closed = subprocess.run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *words], env=environment)
    assert closed.returncode == 0


def test_an_argument_that_is_not_utf8_is_one_line(sqlite: Studies, tmp_path: Path) -> None:
    sqlite.create()
    for words in (["prune", "s", "0", "--reason", "\udcff"], ["status", "\udcff"]):
        found = subprocess.run(
            [*COMMAND, *words, "--storage", sqlite.url], capture_output=True, cwd=tmp_path
        )
        assert found.returncode == 2
        assert len(found.stderr.splitlines()) == 1
