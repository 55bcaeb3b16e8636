"""``tuner`` commands in processes forked from a server with all imports done.

Importing JAX and Optuna takes longer than most commands under test. The fork server imports
everything once. It never touches a device, because a JAX backend does not survive a fork; each
child starts its own and runs the command line as ``python -m tuner.cli`` would.
"""

import atexit
import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from unittest import mock

IMPORTED = [
    *("tuner.cli", "tuner.run.startup", "tuner.run.worker", "tuner.run.events", "tuner.run.fleet"),
    *(
        "tuner.api",
        "tuner.run.stored_generators",
        "tuner.views.html_report",
        "tuner.views.parameters",
    ),
    *("psycopg", "rich.live", "rich.table", "mlxtend.data", "preloaded"),
]
# Python 3.12 and later warn when a process with threads forks. OpenBLAS may have threads, but stops
# and restarts them around a fork.
FORKS = "ignore:This process:DeprecationWarning"

_forks = multiprocessing.get_context("forkserver")


def start_server(environment: dict[str, str]) -> None:
    """Start the fork server; ``environment`` sets the variables that are read at import."""
    warnings = ",".join(filter(None, [environment.get("PYTHONWARNINGS"), FORKS]))
    folders = [str(Path(__file__).parent), environment.get("PYTHONPATH")]  # for ``preloaded``
    own = {"PYTHONWARNINGS": warnings, "PYTHONPATH": os.pathsep.join(filter(None, folders))}
    _forks.set_forkserver_preload(IMPORTED)
    with mock.patch.dict(os.environ, environment | own, clear=True):
        forkserver.ensure_running()


class Forked:
    """A command, with the part of ``subprocess.Popen``'s interface that the tests use."""

    def __init__(self, words: Sequence[str], folder: Path, environment: dict[str, str]) -> None:
        stdin, self._stdin = os.pipe()
        self._stdout, stdout = os.pipe()
        self._stderr, stderr = os.pipe()
        child_ends = [
            Connection(stdin, writable=False),
            Connection(stdout, readable=False),
            Connection(stderr, readable=False),
        ]
        arguments = (list(words), str(folder), environment, child_ends)
        self._process = _forks.Process(target=_run, args=arguments, daemon=True)
        self._process.start()
        for end in child_ends:
            end.close()
        assert self._process.pid is not None
        self.pid = self._process.pid
        self.stdin = os.fdopen(self._stdin, "w")
        self.stdout, self.stderr = os.fdopen(self._stdout), os.fdopen(self._stderr)

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("tuner", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(
    words: list[str], folder: str, environment: dict[str, str], streams: list[Connection]
) -> None:
    """Run the command in the forked child."""
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
        stream.close()
    sys.stdin = os.fdopen(0)  # the server closed sys.stdin
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["tuner", *words]
    import tuner.cli

    try:
        tuner.cli.main()
    finally:
        atexit._run_exitfuncs()  # multiprocessing skips these
