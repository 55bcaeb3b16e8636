"""Several worker processes on this machine, shown in one view."""

import importlib.util
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from tuner.errors import InputError, InterruptError
from tuner.places import STORAGE_VARIABLE
from tuner.run.events import Listener, replay
from tuner.run.signals import handling

LAST_WORDS = 5  # lines of a dead worker's errors that are looked at
VISIBLE = "CUDA_VISIBLE_DEVICES"


def accelerators() -> list[str]:
    """The GPUs that JAX could use here, as CUDA_VISIBLE_DEVICES names them; found without JAX,
    which would take hold of them."""
    plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin")
    if not any(importlib.util.find_spec(name) for name in plugins):
        return []
    visible = os.environ.get(VISIBLE)
    if visible is not None:
        return [name for name in visible.split(",") if name.strip()]
    folder = Path("/proc/driver/nvidia/gpus")
    return [str(i) for i in range(len(list(folder.iterdir())))] if folder.is_dir() else []


def run_fleet(
    words: Sequence[Sequence[str]],
    storage: str,
    respawn: int,
    devices: Sequence[str],
    listener: Listener,
) -> bool:
    """Run ``tuner worker`` in a process for each of these ``words``, on a device of its own while
    there are enough, until all have left; the dead are replaced ``respawn`` times in all.

    Whether they left because they were told to: by a person, or as their time was up. InputError
    where every worker was refused.
    """
    fleet = _Fleet(words, storage, devices, listener, respawn)
    with _passing_on_signals(fleet):
        for i in range(len(words)):
            fleet.start(i)
        fleet.wait()
    if fleet.refusals == len(words):
        raise InputError("no worker could join; the reason is above")
    return fleet.stopping or fleet.lost == 0


class _Fleet:
    def __init__(
        self,
        words: Sequence[Sequence[str]],
        storage: str,
        devices: Sequence[str],
        listener: Listener,
        respawn: int,
    ) -> None:
        self._words, self._devices, self._listener = words, devices, listener
        self._storage = storage  # not among the words, where ps would show its password
        self._respawn, self.stopping = respawn, False
        self.refusals, self.lost = 0, 0  # workers
        self._processes: dict[int, subprocess.Popen[str]] = {}
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()  # over the listener, and all of the above

    def start(self, index: int) -> None:
        environment = os.environ | {STORAGE_VARIABLE: self._storage}
        if self._devices:
            environment[VISIBLE] = self._devices[index % len(self._devices)]
        process = subprocess.Popen(
            [sys.executable, "-m", "tuner.cli", "worker", *self._words[index], "--events"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # a terminal's Ctrl-C reaches us alone; we pass it on
        )
        self._processes[index] = process
        thread = threading.Thread(target=self._attend, args=(index, process), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _attend(self, index: int, process: subprocess.Popen[str]) -> None:
        """Replay a worker's events until it leaves or dies."""
        assert process.stdout is not None
        assert process.stderr is not None
        words: deque[str] = deque(maxlen=LAST_WORDS)
        errors = process.stderr
        reader = threading.Thread(target=lambda: words.extend(errors), daemon=True)
        reader.start()
        for line in process.stdout:
            with self._lock:
                try:
                    replay(line, self._listener)
                except ValueError:  # a library that prints
                    self._listener.announce(f"worker {index}: {line.strip()}")
        code = process.wait()
        reader.join(timeout=5)
        process.stdout.close()
        process.stderr.close()
        if code != 0:
            self._mourn(index, process.pid, code, [line.strip() for line in words if line.strip()])

    def _mourn(self, index: int, pid: int, code: int, words: list[str]) -> None:
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        last = f"; its last words: {words[-1]}" if words else ""
        with self._lock:
            self._listener.announce(f"worker {index} (process {pid}) died, {how}{last}")
            refused = code == InputError.exit_code
            if self._respawn > 0 and not refused and not self.stopping:
                self._respawn -= 1
                self._listener.announce(f"worker {index} is replaced; {self._respawn} more times")
                self.start(index)
                return
            self.lost += 1
            self.refusals += refused

    def wait(self) -> None:
        for thread in self._threads:  # which grows while workers are replaced
            while thread.is_alive():
                thread.join(timeout=0.2)  # so that signals are seen

    def signal_all(self, number: int) -> None:
        for process in list(self._processes.values()):
            if process.poll() is None:
                process.send_signal(number)

    def stop(self) -> None:
        self.stopping = True
        self._listener.announce("the workers finish their epochs; once more to leave at once")
        self.signal_all(signal.SIGTERM)


@contextmanager
def _passing_on_signals(fleet: _Fleet) -> Iterator[None]:
    """The first SIGINT or SIGTERM stops the workers after their epochs, the second at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if fleet.stopping:
            raise InterruptError
        fleet.stop()

    with handling(handle):
        try:
            yield
        except BaseException:
            fleet.signal_all(signal.SIGTERM)
            fleet.signal_all(signal.SIGTERM)
            raise
