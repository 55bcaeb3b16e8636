"""Run several worker processes on this machine and show them in one view."""

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field
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
    call_within,
    end_process,
    finishing,
    responding,
)
from tuner.run.signals import FINISHING as FINISHING_EPOCH
from tuner.run.widening import EpochTimes, Widening, should_widen
from tuner.study.claims import Claim
from tuner.study.sinks import Ending, Released, Sinks, TrialSink
from tuner.worker_command import WorkerCommand, tuner_process

FINISHING = "the workers finish their epochs, then stop; a second signal stops them at once"
STOP = signal.SIGINT  # workers obey it even where they ignore SIGTERM or SIGHUP
LATE = 10.0  # seconds after its grace period until a worker that has not exited is killed
KEPT_LINES = 5  # of a worker's standard error


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
class Fleet:
    """A ``tuner worker`` process for each command, until all have exited.

    ``devices`` are assigned in turn; workers on the same one share its memory, and all of them the
    CPU's cores. With ``widen`` the fleet begins with one worker on each device and adds one to each
    as long as the rate rises; see ``Widening``. Dead workers are replaced, ``respawn`` times in
    total.
    ``doing`` receives the index of a worker, its trial, what it is doing, and for how many seconds.
    All stop ``max_time`` seconds from now; ``grace`` is the workers' own, in seconds. ``stop``
    records a signal.
    """

    commands: Sequence[WorkerCommand]
    storage: str  # not in the commands, where ps would show its password
    devices: Sequence[str]
    sink: TrialSink
    _: KW_ONLY
    widen: bool = False
    respawn: int = 0
    max_time: float | None = None
    grace: float = GRACE
    doing: Callable[[int, int | None, str, float], None] | None = None
    stop: Stop = field(default_factory=Stop)

    def __post_init__(self) -> None:
        count, devices = len(self.commands), len(self.devices)
        self.until = None if self.max_time is None else time.monotonic() + self.max_time
        self.per_device = -(-count // devices) if devices else 1  # workers at most
        self.first = devices if self.widen else count  # the number of workers to begin with
        # While the fleet may still grow:
        self.widening = Widening(self.first) if self.widen else None
        self.variables: Mapping[str, str] = {}  # of every worker
        self.stopping = False
        self.refusals = 0  # workers that reported wrong input
        self.lost = 0  # dead workers that were not replaced
        self.hung = False  # whether one of them ended because an epoch hung
        self.processes: dict[int, subprocess.Popen[str]] = {}
        self.threads: list[threading.Thread] = []
        self.lock = threading.Lock()  # for the sink and these fields

    def run(self) -> bool:
        """Run the workers; returns False if one was lost, unless a stop was requested. InputError
        if every worker reported wrong input; HungError if one was lost to an epoch that hung."""
        with (
            _sharing(self.devices, self.per_device, self.sink) as self.variables,
            responding(self.respond),
        ):
            try:
                for index in range(self.first):
                    self.start(index)
                self.wait()
            except BaseException:
                self.leave_at_once()
                raise
        if self.refusals == len(self.processes):
            raise InputError("no worker could join the study; see the errors above")
        if self.hung and not self.stopping:
            raise HungError("an epoch hung; see the lines above")
        return self.stopping or self.lost == 0

    def start(self, index: int) -> None:
        process = subprocess.Popen(
            tuner_process(*self._command(index).words),
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
        thread = threading.Thread(target=self._relay_events, args=(index, process), daemon=True)
        self.threads.append(thread)
        thread.start()

    def _command(self, index: int) -> WorkerCommand:
        command = self.commands[index]._replace(events=True)
        if self.until is None:
            return command
        # Less for a worker that begins later.
        return command._replace(max_time=max(1.0, self.until - time.monotonic()))

    def _environment(self, index: int) -> dict[str, str]:
        found = {**os.environ, **self.variables, STORAGE_VARIABLE: self.storage}
        if self.devices:
            found[gpus.VISIBLE] = self.devices[index % len(self.devices)]
        if self.per_device > 1:
            found |= gpus.share(os.environ, self.per_device, self._threads(index))
        return found

    def _threads(self, index: int) -> int:
        """CPU threads for a worker: its share among the workers running when it begins."""
        workers = (index // self.first + 1) * self.first
        return max(1, cores() // workers)

    def _relay_events(self, index: int, process: subprocess.Popen[str]) -> None:
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
            self.widening = None  # a worker has left: the study ends, or a stop was requested

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
        """Add a worker to each device, or decide against it, once the current rate is measured."""
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
        call_within(AT_ONCE, self.sink.announce, finishing(number, FINISHING))
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
