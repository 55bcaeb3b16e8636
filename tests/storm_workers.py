"""Worker processes for the storm, forked from a server process that has imported everything.

A worker that lives for seconds would spend most of them importing JAX. The server therefore
imports what ``tuner worker`` imports, then forks. It never touches a device, because a JAX backend
does not survive a fork; each child starts its own. The child runs the command line as
``python -m tuner.cli`` does, with these additions:

- It logs each epoch that it trains, reported or not, with the FID in full. ``Trainer.load`` and
  ``Trainer.run_epoch`` are wrapped for that.
- It may send itself SIGKILL or SIGSTOP at its n-th step in the database: before a statement, before
  a commit, or after one. Signals from outside seldom hit these moments.
- Its standard output and error may be a pipe or a terminal whose reader leaves after some seconds.
  The log then holds what the reader read from the pipe, and the epochs, which bypass it.
- It may hang forever instead of training its n-th epoch.
- With ``unfenced``, writes to a trial do not check its owner. Only the tests of the storm's checks
  use that.
"""

import ctypes
import importlib
import json
import os
import pty
import queue
import select
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from forked import IMPORTED

TRAINED = "storm: trained"
HANGS = "storm: hangs"
ON_A_TERMINAL = "storm: on a terminal"  # its output goes there instead of to the log
READER_LEFT = "storm: the reader left"
START_TIMEOUT = 60.0  # seconds for the server to import and to fork
_PR_SET_PDEATHSIG = 1


class Exit(NamedTuple):
    """A worker's exit."""

    code: int  # negative: the signal that ended it
    at: float  # seconds since 1970


class Injection(NamedTuple):
    """Faults that a worker injects into itself, and the reader of its output."""

    step: int = 0  # step in the database at which it sends itself a signal
    number: int = 0  # the signal
    hangs: int = 0  # the epoch that hangs, counted from 1
    reader: str = ""  # pipe or terminal: its standard output and error
    stays: float = 0.0  # seconds until the reader leaves


class ForkedWorkers:
    """The server that starts and signals workers. Closing it kills the remaining ones."""

    def __init__(
        self, folder: Path, environment: dict[str, str], *, unfenced: bool = False
    ) -> None:
        """Workers run in ``folder`` with this ``environment``."""
        self.exits: dict[int, Exit] = {}
        self._started: queue.Queue[int] = queue.Queue()
        words = [sys.executable, __file__, *(["--unfenced"] if unfenced else [])]
        self._process = subprocess.Popen(
            words,
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def start(self, words: list[str], machine: str, log: Path, injection: Injection) -> int:
        """Run ``tuner`` with these arguments on the ``machine``; return its process id."""
        request = {"words": words, "machine": machine, "log": str(log)}
        self._send(request | injection._asdict())
        return self._started.get(timeout=START_TIMEOUT)

    def signal(self, pid: int, number: int) -> None:
        """Signal a worker; the server knows whether the process still exists."""
        self._send({"signal": pid, "number": number})

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        finally:
            self._process.kill()
            self._reader.join(timeout=10)
            assert self._process.stdout is not None
            self._process.stdout.close()

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            kind, pid, code, at = json.loads(line)
            if kind == "started":
                self._started.put(pid)
            else:
                self.exits[pid] = Exit(code, at)


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped a process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] == "T"


# In the server


def serve() -> dict[str, Any] | None:
    """Fork and signal on request until the pipe closes. In a child, return its request."""
    children: set[int] = set()
    readers = Readers()
    waiting = b""
    while True:
        readable, _, _ = select.select([0], [], [], 0.02)
        _reap(children)
        readers.read()
        if not readable:
            continue
        data = os.read(0, 65536)
        if not data:
            break
        *lines, waiting = (waiting + data).split(b"\n")
        for request in map(json.loads, lines):
            if "signal" in request:
                if request["signal"] in children:
                    os.kill(request["signal"], request["number"])
                continue
            end = readers.open(request["reader"], request["log"], request["stays"])
            pid = _fork()
            if pid == 0:
                readers.close()
                return dict(request) | {"end": end}
            if end is not None:
                os.close(end)
            children.add(pid)
            _reply("started", pid, 0, time.time())
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    while children:
        _reap(children)
        time.sleep(0.02)
    return None


class Readers:
    """Readers of the workers' output, each of which leaves after its time."""

    def __init__(self) -> None:
        self._sinks: dict[int, tuple[int, str, float]] = {}

    def open(self, kind: str, log: str, seconds: float) -> int | None:
        """The worker's end of a new pipe or terminal."""
        if not kind:
            return None
        ours, theirs = os.pipe() if kind == "pipe" else pty.openpty()
        if kind == "terminal":
            _note(log, ON_A_TERMINAL)
        sink = open_log(log if kind == "pipe" else f"{log}.screen")
        self._sinks[ours] = sink, log, time.monotonic() + seconds
        return theirs

    def read(self) -> None:
        for end in select.select(list(self._sinks), [], [], 0)[0]:
            data = b""
            with suppress(OSError):  # no process has the terminal open any more
                data = os.read(end, 65536)
            os.write(self._sinks[end][0], data)
            if not data:
                self._close(end)
        for end, (_, log, until) in list(self._sinks.items()):
            if time.monotonic() > until:
                _note(log, READER_LEFT)
                self._close(end)

    def close(self) -> None:
        for end in list(self._sinks):
            self._close(end)

    def _close(self, end: int) -> None:
        os.close(end)
        os.close(self._sinks.pop(end)[0])


def open_log(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def _note(log: str, line: str) -> None:
    descriptor = open_log(log)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 and later warn when a process with threads forks. OpenBLAS has threads, but
        # stops and restarts them around a fork.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _reap(children: set[int]) -> None:
    for pid in list(children):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found == pid:
            children.remove(pid)
            _reply("left", pid, os.waitstatus_to_exitcode(status), time.time())


def _reply(*event: Any) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent dies."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


# In a worker


def become(request: dict[str, Any]) -> None:
    """Turn this child into the requested worker."""
    end_with_parent()
    end = open_log(request["log"]) if request["end"] is None else request["end"]
    no_input = os.open(os.devnull, os.O_RDONLY)
    for old, new in ((no_input, 0), (end, 1), (end, 2)):
        os.dup2(old, new)
    os.environ["TUNER_MACHINE"] = request["machine"]
    sys.argv = ["tuner", *request["words"]]
    _log_epochs(request["log"], request["hangs"])
    if request["step"]:
        _signal_itself(request["step"], request["number"])


def _log_epochs(log: str, hangs: int) -> None:
    from tuner.run.trainer import Trainer

    load: Callable[..., None] = Trainer.load
    run_epoch: Callable[[Trainer], Any] = Trainer.run_epoch
    seeds: dict[int, int] = {}
    begun = 0

    def logging_load(trainer: Trainer, config: Any, *rest: Any) -> None:
        load(trainer, config, *rest)
        seeds[id(trainer)] = config.seed

    def logging_run_epoch(trainer: Trainer) -> Any:
        nonlocal begun
        begun += 1
        if begun == hangs:
            _note(log, HANGS)
            _hang()
        report = run_epoch(trainer)
        sys.stdout.flush()
        _note(log, f"{TRAINED} {seeds[id(trainer)]} {report.epoch} {report.fid!r}")
        return report

    mock.patch.object(Trainer, "load", logging_load).start()
    mock.patch.object(Trainer, "run_epoch", logging_run_epoch).start()


def _hang() -> None:
    """Hang like a device that does not respond: not even signal handlers run in this thread."""
    mutex, c = ctypes.create_string_buffer(128), ctypes.CDLL(None)
    c.pthread_mutex_lock(mutex)
    c.pthread_mutex_lock(mutex)


def _signal_itself(step: int, number: int) -> None:
    import sqlalchemy

    taken = 0

    def count(*_: Any) -> None:
        nonlocal taken
        taken += 1
        if taken == step:
            os.kill(os.getpid(), number)

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", count)
    sqlalchemy.event.listen(sqlalchemy.Engine, "commit", count)
    sqlalchemy.event.listen(sqlalchemy.pool.Pool, "checkin", count)


def _disable_fencing() -> None:
    from sqlalchemy import update

    from tuner.study import tables
    from tuner.study.storage import FencedStorage

    def renew_without_owner(
        storage: Any, session: Any, trial_id: int, values: dict[str, Any], *conditions: Any
    ) -> Any:
        leases = tables.leases
        statement = update(leases).where(leases.c.trial_id == trial_id, *conditions)
        statement = statement.values(expires_at=leases.c.expires_at, **values)
        returned = statement.returning(leases.c.epoch, leases.c.prune_reason)
        return session.execute(returned).one_or_none()

    mock.patch.object(FencedStorage, "_renew", renew_without_owner).start()


def main() -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the harness handles Ctrl-C
    for name in IMPORTED:
        importlib.import_module(name)
    if "--unfenced" in sys.argv:
        _disable_fencing()
    request = serve()
    if request is None:
        return
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # so that Ctrl-C prints no traceback of the harness
    become(request)
    import tuner.cli

    tuner.cli.main()


if __name__ == "__main__":
    main()
