"""Worker processes for the storm, forked from a nursery: a process that has everything imported.

A worker that is to live for seconds would spend most of them importing JAX. So the nursery imports
what ``tuner worker`` imports, and forks. It never touches a device, for JAX's backend doesn't
outlive a fork; each child starts its own. What runs in a child is the command line itself, as
``python -m tuner.cli`` runs it, with these additions:

- Each epoch that it trains is written to its log with the FID in full, whether it is reported or
  not: ``Lane.insert`` and ``Lane.run_epoch`` are wrapped, and do what they did.
- It may be told to send itself SIGKILL or SIGSTOP at its n-th step in the database: before a
  statement, before a commit, or after one. Signals from outside seldom hit those moments.
- In a nursery made with ``unfenced``, writes to a trial are let through without a look at who owns
  it. That is for the tests of the storm's own checks, and for nothing else.
"""

import ctypes
import importlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from forked import IMPORTED

TRAINED = "storm: trained"
LONGEST_START = 60.0  # seconds for the nursery to import, or to fork
_PR_SET_PDEATHSIG = 1


class Exit(NamedTuple):
    """How a worker left."""

    code: int  # negative: the signal that ended it
    at: float  # seconds since 1970


class Nursery:
    """Starts and signals workers. Those that are left are killed when it is closed."""

    def __init__(
        self, folder: Path, environment: dict[str, str], *, unfenced: bool = False
    ) -> None:
        """Workers run in ``folder`` and see the ``environment``, and where they are."""
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

    def start(
        self, words: list[str], machine: str, log: Path, step: int = 0, number: int = 0
    ) -> int:
        """Run ``tuner`` with these words on the ``machine``; returns its process id. At its
        database ``step`` it sends itself signal ``number``."""
        request = {"words": words, "machine": machine, "log": str(log)}
        self._tell(request | {"step": step, "number": number})
        return self._started.get(timeout=LONGEST_START)

    def signal(self, pid: int, number: int) -> None:
        """The nursery sends it, which knows whether the process is still there."""
        self._tell({"signal": pid, "number": number})

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

    def _tell(self, request: dict[str, Any]) -> None:
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
    """Whether a process was stopped by a signal."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] == "T"


# In the nursery


def serve() -> dict[str, Any] | None:
    """Fork and signal as asked until nobody asks any more. In a child: what it is to be."""
    children: set[int] = set()
    waiting = b""
    while True:
        readable, _, _ = select.select([0], [], [], 0.02)
        _bury(children)
        if not readable:
            continue
        heard = os.read(0, 65536)
        if not heard:
            break
        *lines, waiting = (waiting + heard).split(b"\n")
        for request in map(json.loads, lines):
            if "signal" in request:
                if request["signal"] in children:
                    os.kill(request["signal"], request["number"])
                continue
            pid = _fork()
            if pid == 0:
                return dict(request)
            children.add(pid)
            _say("started", pid, 0, time.time())
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    while children:
        _bury(children)
        time.sleep(0.02)
    return None


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 and later warn of threads, and NumPy's and SciPy's OpenBLAS have some: it
        # ends and begins them around a fork.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _bury(children: set[int]) -> None:
    for pid in list(children):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found == pid:
            children.remove(pid)
            _say("left", pid, os.waitstatus_to_exitcode(status), time.time())


def _say(*event: Any) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent has died."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


# In a worker


def become(request: dict[str, Any]) -> None:
    """Turn this child of the nursery into the worker that was asked for."""
    end_with_parent()
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for old, new in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(old, new)
    os.environ["TUNER_MACHINE"] = request["machine"]
    sys.argv = ["tuner", *request["words"]]
    _write_down_epochs()
    if request["step"]:
        _signal_itself(request["step"], request["number"])


def _write_down_epochs() -> None:
    from tuner.run.lane import Lane

    insert: Callable[..., None] = Lane.insert
    run_epoch: Callable[[Lane], Any] = Lane.run_epoch
    seeds: dict[int, int] = {}

    def noting_insert(lane: Lane, config: Any, *rest: Any) -> None:
        insert(lane, config, *rest)
        seeds[id(lane)] = config.seed

    def noting_run_epoch(lane: Lane) -> Any:
        report = run_epoch(lane)
        sys.stdout.write(f"{TRAINED} {seeds[id(lane)]} {report.epoch} {report.fid!r}\n")
        sys.stdout.flush()
        return report

    mock.patch.object(Lane, "insert", noting_insert).start()
    mock.patch.object(Lane, "run_epoch", noting_run_epoch).start()


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


def _take_the_fence_down() -> None:
    from sqlalchemy import update

    from tuner.study import tables
    from tuner.study.storage import FencedStorage

    def let_through(
        storage: Any, session: Any, trial_id: int, values: dict[str, Any], *conditions: Any
    ) -> Any:
        ours = tables.leases
        statement = update(ours).where(ours.c.trial_id == trial_id, *conditions)
        statement = statement.values(expires_at=ours.c.expires_at, **values)
        returned = statement.returning(ours.c.epoch, ours.c.prune_reason)
        return session.execute(returned).one_or_none()

    mock.patch.object(FencedStorage, "_renew", let_through).start()


def main() -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the harness's to deal with
    for name in IMPORTED:
        importlib.import_module(name)
    if "--unfenced" in sys.argv:
        _take_the_fence_down()
    request = serve()
    if request is None:
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    become(request)
    import tuner.cli

    tuner.cli.main()


if __name__ == "__main__":
    main()
