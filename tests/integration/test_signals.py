"""Stop requests by signals and time limits, and exits wherever a signal interrupts."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tuner.cli.options import parse_duration
from tuner.errors import InputError
from tuner.run.signals import BY, FINISHING, LEFT, SIGNALS, Stop, stop_on_ctrl_c


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("30m", 1800),
        ("8h", 28_800),
        ("2d", 172_800),
        ("1h30m", 5400),
        ("1h30m5s", 5405),
        ("1d1s", 86_401),
        ("0", 0),
        ("090s", 90),
    ],
)
def test_durations_are_parsed(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", " ", "s", "-1", "1.5h", "1e3", "30m1h", "1h 30m", "90 s", "1w", "1h30x", "h", "1hh"],
)
def test_invalid_durations_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="write it like 90s, 30m or 1h30m") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)


def test_a_stop_is_requested_by_a_call_or_by_time() -> None:
    stop = Stop()
    assert not stop.requested
    stop.request()
    assert stop.requested
    assert not stop.by_signal
    stop = Stop(seconds=0.1)
    assert not stop.requested
    time.sleep(0.15)
    assert stop.requested


def test_a_stop_records_the_time_of_its_request() -> None:
    stop, before = Stop(), time.monotonic()
    assert stop.since is None
    stop.request()
    first = stop.since
    assert first is not None
    assert before <= first <= time.monotonic()
    stop.request()
    assert stop.since == first
    stop.request(by_signal=True)  # a signal restarts the time
    assert stop.since is not None
    assert stop.since > first


def test_only_a_signal_changes_the_exit_code() -> None:
    stop = Stop(seconds=0.0, signal_code=75)
    stop.request()
    assert (stop.requested, stop.exit_code) == (True, 0)
    stop.request(by_signal=True)
    assert stop.exit_code == 75


def test_setting_the_clock_requests_no_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop(seconds=60)
    monkeypatch.setattr(time, "time", lambda: 1e12)
    assert not stop.requested


def test_a_stop_request_ends_waiting() -> None:
    stop = Stop()
    began = time.monotonic()
    stop.wait(0.05)
    assert 0.05 <= time.monotonic() - began < 5
    threading.Timer(0.1, stop.request).start()
    stop.wait(60)
    assert time.monotonic() - began < 10
    stop.wait(60)
    assert time.monotonic() - began < 10


# In a notebook's process, which must not exit


@pytest.fixture
def notebook() -> Iterator[None]:
    """Disable the wake-up thread that commands of other tests left: it would exit the process."""
    before = signal.set_wakeup_fd(-1)
    yield
    signal.set_wakeup_fd(before, warn_on_full_buffer=False)


@pytest.mark.usefixtures("notebook")
def test_ctrl_c_requests_a_stop_and_the_second_interrupts() -> None:
    stop, announced = Stop(), list[str]()
    before = [signal.getsignal(number) for number in SIGNALS]
    stop.has_something_to_finish = True

    def interrupted() -> None:
        with stop_on_ctrl_c(stop, announced.append):
            signal.raise_signal(signal.SIGTERM)
            assert stop.requested
            assert stop.by_signal
            assert announced == [f"SIGTERM: {FINISHING}"]
            assert stop.reason == "SIGTERM"
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.usefixtures("notebook")
def test_ctrl_c_interrupts_at_once_without_work_to_finish() -> None:
    with pytest.raises(KeyboardInterrupt), stop_on_ctrl_c(Stop(), print):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("notebook")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_swallowed_by_a_destructor_is_raised_later() -> None:
    reached = []

    class Connection:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    def interrupted() -> None:
        with stop_on_ctrl_c(Stop(), print):
            Connection()
            reached.append(True)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert reached


def test_handlers_are_unchanged_outside_the_main_thread() -> None:
    before = signal.getsignal(signal.SIGINT)
    found: list[object] = []

    def work() -> None:
        with stop_on_ctrl_c(Stop(), print):
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


# In the process of a command, whatever its main thread does

PRELUDE = """
import atexit, contextlib, ctypes, re, sys, threading, time
from tuner.run.signals import Stop, interrupting, exit_on_signals, stop_on_signals
stop = Stop()
def show(text):
    print(text, flush=True)
def release():
    show("released")
    time.sleep(float(sys.argv[1]))
def block():
    "Blocks in C forever: no Python signal handler runs in this thread."
    show("blocked")
    mutex, library = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    for _ in range(2):
        library.pthread_mutex_lock(mutex)
class BlocksInFinaliser:
    def __del__(self):
        block()
def block_with_gil():
    "Blocks with the GIL held: signal handling waits for it."
    show("blocked")
    re.match("(a+)+b", "a" * 40)
def block_and_catch_all():
    while True:
        with contextlib.suppress(BaseException):
            block()
def block_in_lock():
    show("blocked")
    threading.Lock().acquire() and threading.Event().wait()
exit_on_signals()
"""
WORKER = """
with stop_on_signals(stop, show, release):
    stop.has_something_to_finish = {something}
    {code}
"""
BLOCKING = {
    "C": "block()",
    "a lock": "block_in_lock()",
    "C that holds the lock": "block_with_gil()",
    "a finaliser": "BlocksInFinaliser()",
    "code that catches all": "block_and_catch_all()",
}


@contextmanager
def running(
    code: str, *words: str, ignoring: signal.Signals | None = None
) -> Iterator[subprocess.Popen[str]]:
    ignore = f"import signal\nsignal.signal({int(ignoring)}, signal.SIG_IGN)\n" if ignoring else ""
    with subprocess.Popen(
        [sys.executable, "-c", ignore + PRELUDE + code, *(words or ("0",))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, output and errors of a process that exits soon."""
    out, errors = process.communicate(timeout=5)
    return process.returncode, out, errors


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("block", BLOCKING)
def test_a_second_signal_leaves_at_once(block: str, number: signal.Signals) -> None:
    with running(WORKER.format(something=True, code=BLOCKING[block])) as process:
        assert read_line(process) == "blocked"
        process.send_signal(number)
        assert read_line(process) == f"{BY[number]}: {FINISHING}"
        process.send_signal(signal.SIGTERM)
        assert outcome(process) == (1, "released\n", f"tuner: {LEFT}\n")


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_the_first_signal_leaves_if_there_is_nothing_to_finish(number: signal.Signals) -> None:
    with running(WORKER.format(something=False, code="block()")) as process:
        assert read_line(process) == "blocked"
        process.send_signal(number)
        assert outcome(process) == (128 + number, "released\n", f"tuner: {LEFT}\n")


def test_an_unreachable_database_does_not_delay_leaving() -> None:
    with running(WORKER.format(something=False, code="block()"), "60") as process:
        assert read_line(process) == "blocked"
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert outcome(process)[0] == 130
        assert time.monotonic() - began < 3


@pytest.mark.parametrize("block", [*BLOCKING.values(), "atexit.register(block)"])
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_command_leaves_at_once_with_one_line(block: str, number: signal.Signals) -> None:
    with running(f"if True:\n    {block}") as process:
        assert read_line(process) == "blocked"
        process.send_signal(number)
        assert outcome(process) == (128 + number, "", "tuner: interrupted\n")


def test_a_command_exits_although_its_error_pipe_is_full() -> None:
    full = "import fcntl, os\nfcntl.fcntl(2, 1031, 4096)\nos.write(2, bytes(4096))\nblock()"
    with running(full) as process:
        assert read_line(process) == "blocked"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=5) == 143


def test_commands_end_on_a_signal() -> None:
    """``status --watch`` and ``dashboard``, for example, end only on a signal."""
    code = "with contextlib.suppress(KeyboardInterrupt), interrupting():\n    block_in_lock()\n"
    code += "show('left')"
    for number in SIGNALS:
        with running(code) as process:
            assert read_line(process) == "blocked"
            process.send_signal(number)
            assert outcome(process) == (0, "left\n", "")


def test_hanging_commands_end_on_a_signal() -> None:
    code = "with contextlib.suppress(KeyboardInterrupt), interrupting():\n    block()"
    with running(code) as process:
        assert read_line(process) == "blocked"
        process.send_signal(signal.SIGINT)
        assert outcome(process) == (0, "", "")


def test_nohup_is_respected() -> None:
    with running("block()", ignoring=signal.SIGHUP) as process:
        assert read_line(process) == "blocked"
        process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert outcome(process)[0] == 143


def test_an_ignored_sigterm_stays_ignored() -> None:
    """Slurm may send it to all processes of a job, of which one passes it on as SIGINT."""
    with running("block()", ignoring=signal.SIGTERM) as process:
        assert read_line(process) == "blocked"
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert outcome(process)[0] == 130


def test_ctrl_c_during_imports_prints_no_traceback() -> None:
    """From the first imported module on: before it, Python itself is still starting."""
    words = [sys.executable, "-X", "importtime", "-m", "tuner.cli", "list"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    for module in ("optuna.distributions", "typer", "tuner.cli.best", "tuner.cli"):
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if re.search(rf"\b{re.escape(module)}$", line.strip()):
                    break
            process.send_signal(signal.SIGINT)
            rest = [line for line in process.stderr if not line.startswith("import time:")]
            assert (process.wait(timeout=10), rest) == (130, ["tuner: interrupted\n"]), module


@pytest.mark.parametrize(
    ("program", "code", "last"),
    [("bin/tuner", 130, "tuner: interrupted"), ("script.py", -2, "KeyboardInterrupt")],
)
def test_ctrl_c_during_the_imports_leaves_one_line(program: str, code: int, last: str) -> None:
    """Only in the tuner program: other ones that import tuner keep Python's behaviour."""
    script = f"import sys; sys.argv = [{program!r}]; import tuner, os; os.kill(os.getpid(), 2)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    lines = done.stderr.strip().splitlines()
    assert (done.returncode, lines[-1]) == (code, last)
    assert len(lines) == 1 or program == "script.py"
