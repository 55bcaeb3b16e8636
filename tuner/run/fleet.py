"""Run several worker processes on this machine and show them in one view."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from tuner.data.decoding import cores
from tuner.environment import STORAGE_VARIABLE
from tuner.errors import HUNG_EXIT_CODE, HungError, InputError
from tuner.run import gpus, mps
from tuner.run.events import replay
from tuner.run.signals import (
    AT_ONCE,
    GRACE,
    LEFT,
    Stop,
    briefly,
    end_process,
    finishing,
    responding,
)
from tuner.run.signals import FINISHING as FINISHING_EPOCH
from tuner.run.widening import EpochTimes, Widening, should_widen
from tuner.study.claims import Claim
from tuner.study.sinks import Ending, Released, Sinks, TrialSink

FINISHING = "the workers finish their epochs, then stop; a second signal stops them at once"
STOP = signal.SIGINT  # workers obey it even where they ignore SIGTERM or SIGHUP
LATE = 10.0  # seconds after its grace period until a worker that has not exited is killed
KEPT_LINES = 5  # of a worker's standard error


def run_fleet(
    arguments: Sequence[Sequence[str]],
    storage: str,
    respawn: int,
    devices: Sequence[str],
    sink: TrialSink,
    *,
    widen: bool = False,
    max_time: float | None = None,
    grace: float = GRACE,
    doing: Callable[[int, int | None, str, float], None] | None = None,
    stop: Stop | None = None,
) -> bool:
    """Run a ``tuner worker`` process for each list of arguments, until all have exited.

    ``devices`` are assigned in turn; workers on the same one share its memory, and all of them the
    CPU's cores. With ``widen`` the fleet begins with one worker on each device and adds one to each
    as long as that pays; see ``Widening``. Dead workers are replaced, ``respawn`` times in total.
    ``doing`` receives the index of a worker, its trial, what it is doing, and for how many seconds.
    All stop ``max_time`` seconds from now; ``grace`` is the workers' own, in seconds. ``stop``
    records a signal. Returns False if a worker was lost, unless a stop was requested. InputError if
    every worker reported wrong input; HungError if a worker was lost to an epoch that hung.
    """
    until = None if max_time is None else time.monotonic() + max_time
    per_device = -(-len(arguments) // len(devices)) if devices else 1
    with _sharing(devices, per_device, sink) as variables:
        first = len(devices) if widen else len(arguments)
        widening = Widening(first) if widen else None
        fleet = _Fleet(
            arguments,
            storage,
            devices,
            sink,
            respawn,
            until,
            grace,
            stop or Stop(),
            per_device,
            variables,
            first,
            widening,
            doing,
        )
        with responding(fleet.respond):
            try:
                for i in range(first):
                    fleet.start(i)
                fleet.wait()
            except BaseException:
                fleet.leave_at_once()
                raise
    if fleet.refusals == len(fleet.processes):
        raise InputError("no worker could join the study; see the errors above")
    if fleet.hung and not fleet.stopping:
        raise HungError("an epoch hung; see the lines above")
    return fleet.stopping or fleet.lost == 0


@contextmanager
def _sharing(devices: Sequence[str], workers: int, sink: TrialSink) -> Iterator[dict[str, str]]:
    """Let ``workers`` processes share each device; yields the variables that they need."""
    if workers == 1:
        yield {}
        return
    memory = gpus.memory_share(os.environ, workers)
    if memory is not None:
        sink.announce(f"each of {workers} workers per GPU may take {memory:.1%} of its memory")
    with mps.shared(devices, sink.announce) as variables:
        yield variables


@dataclass
class _Fleet:
    arguments: Sequence[Sequence[str]]
    storage: str  # not in the arguments, where ps would show its password
    devices: Sequence[str]
    sink: TrialSink
    respawn: int
    until: float | None  # time.monotonic() at which workers stop
    grace: float
    stop: Stop
    per_device: int  # workers at most
    variables: Mapping[str, str]  # of every worker
    first: int  # the number of workers to begin with
    widening: Widening | None  # while it may still grow
    doing: Callable[[int, int | None, str, float], None] | None
    stopping: bool = False
    refusals: int = 0  # workers that reported wrong input
    lost: int = 0  # dead workers that were not replaced
    hung: bool = False  # whether one of them ended because an epoch hung
    processes: dict[int, subprocess.Popen[str]] = field(default_factory=dict)
    threads: list[threading.Thread] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)  # for the sink and these fields

    def start(self, index: int) -> None:
        process = subprocess.Popen(
            # -P: files in the working directory must not shadow libraries.
            [sys.executable, "-P", "-m", "tuner.cli", "worker", *self._words(index), "--events"],
            env=self._environment(index),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C in a terminal then reaches only this process
        )
        self.processes[index] = process
        if self.stopping:  # requested while the process started
            process.send_signal(STOP)
        thread = threading.Thread(target=self._attend, args=(index, process), daemon=True)
        self.threads.append(thread)
        thread.start()

    def _words(self, index: int) -> list[str]:
        if self.until is None:
            return [*self.arguments[index]]
        left = max(1.0, self.until - time.monotonic())  # less for a worker that begins later
        return [*self.arguments[index], "--max-time", f"{left:.0f}s"]

    def _environment(self, index: int) -> dict[str, str]:
        found = {**os.environ, **self.variables, STORAGE_VARIABLE: self.storage}
        if self.devices:
            found[gpus.VISIBLE] = self.devices[index % len(self.devices)]
        if self.per_device > 1:
            found |= gpus.share(os.environ, self.per_device, self._threads(index))
        return found

    def _threads(self, index: int) -> int:
        """CPU threads for a worker: its share among the workers that there are when it begins."""
        workers = (index // self.first + 1) * self.first
        return max(1, cores() // workers)

    def _attend(self, index: int, process: subprocess.Popen[str]) -> None:
        """Replay a worker's events until it exits."""
        events, errors = process.stdout, process.stderr
        assert events is not None
        assert errors is not None
        kept = deque[str](maxlen=KEPT_LINES)
        reader = threading.Thread(target=lambda: kept.extend(errors), daemon=True)
        reader.start()
        widening, held = self.widening, _Held()
        times = [] if widening is None else [EpochTimes(widening, index)]
        sink = Sinks(self.sink, held, *times)
        doing = None if self.doing is None else partial(self.doing, index)
        with process:
            for line in events:
                with self.lock:
                    try:
                        if not (self.stopping and FINISHING_EPOCH in line):  # announced for all
                            replay(line, sink, doing)
                    except Exception:  # a library's output must not end the loop
                        self.sink.announce(f"worker {index}: {line.strip()}")
            code = process.wait()
            reader.join(timeout=5)
        # A worker with nothing to finish exits with the exit code of the signal.
        if code != 0 and not (self.stopping and code == 128 + STOP):
            lines = [line.strip() for line in kept if line.strip()]
            self._handle_death(index, process.pid, code, lines, held.claim)
        else:
            self.widening = None  # one worker less: the study ends, or a stop was requested

    def _handle_death(
        self, index: int, pid: int, code: int, errors: list[str], claim: Claim | None
    ) -> None:
        how = f"killed by {_name_of(-code)}" if code < 0 else f"exit code {code}"
        last = f"; its last error: {errors[-1]}" if errors else ""
        with self.lock:
            self.sink.announce(f"worker {index} (process {pid}) died, {how}{last}")
            if self.doing is not None:
                self.doing(index, None, "", 0.0)
            if claim is not None:
                self.sink.ended(claim, Released("lost its worker"))
            refused = code == InputError.exit_code
            if self.respawn > 0 and not refused and not self.stopping:
                self.respawn -= 1
                self.sink.announce(f"replacing worker {index}; replacements left: {self.respawn}")
                self.start(index)
                return
            self.lost += 1
            self.hung |= code == HUNG_EXIT_CODE
            self.refusals += refused
            self.widening = None

    def wait(self) -> None:
        for thread in self.threads:  # a list that grows as workers are replaced or added
            while thread.is_alive():
                thread.join(timeout=0.2)  # so that signal handlers run
                with self.lock:
                    self._widen()

    def _widen(self) -> None:
        """Add a worker to each device, or decide against it, once the present ones are measured."""
        widening = self.widening
        if self.stopping or widening is None or not widening.measured():
            return
        if not should_widen(widening.rates, self.per_device):
            self.sink.announce(f"{widening.finding()}; adding no more")
            self.widening = None
            return
        self.sink.announce(f"{widening.finding()}; adding one")
        present = len(self.processes)
        widening.begin(present + self.first)
        for index in range(present, present + self.first):
            self.start(index)

    def signal_all(self, number: int) -> None:
        for process in list(self.processes.values()):
            if process.poll() is None:
                process.send_signal(number)

    def respond(self, number: int) -> None:
        """Stop the workers after their epochs; at the second signal, at once."""
        if self.stopping:
            self.leave_at_once()
            end_process(1, LEFT)
        self.stopping = True
        self.stop.request(by_signal=True)
        self.signal_all(STOP)
        briefly(AT_ONCE, self.sink.announce, finishing(number, FINISHING))
        late = threading.Timer(self.grace + LATE, self.signal_all, (signal.SIGKILL,))
        late.daemon = True
        late.start()

    def leave_at_once(self) -> None:
        """Stop the workers at once, and wait as long as that should take."""
        for number in (signal.SIGTERM, STOP, signal.SIGHUP):  # equal signals may be merged
            self.signal_all(number)
        until = time.monotonic() + AT_ONCE + 0.2
        while time.monotonic() < until and any(
            p.poll() is None for p in list(self.processes.values())
        ):
            time.sleep(0.02)


class _Held(Sinks):
    """Remembers the trial that a worker runs."""

    claim: Claim | None = None

    def started(self, claim: Claim) -> None:
        self.claim = claim

    def ended(self, claim: Claim, ending: Ending) -> None:
        self.claim = None


def _name_of(number: int) -> str:
    """A signal's name; most real-time signals have none."""
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
