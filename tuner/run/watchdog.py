"""``Watchdog``: ends a worker whose epoch hangs, or outlasts a stop request.

A hung device, a deadlock or a custom network that never returns blocks the main thread, while the
heartbeat thread would renew the trial's lease forever. The watchdog runs in its own thread.
"""

import sys
import threading
import time
import traceback
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import NamedTuple, Self

from tuner.epoch_report import EpochReport
from tuner.errors import HUNG_EXIT_CODE
from tuner.run.signals import STOP_COMMAND, Stop, call_within, end_process
from tuner.spec.metrics import MetricsSection
from tuner.study.claims import Claim
from tuner.study.session import WorkerSession

FACTOR = 10  # times the median duration, after which an epoch counts as hung
SHORTEST_LIMIT = 600.0  # seconds
FIRST_LIMIT = 3 * 3600.0  # seconds for an epoch that compiles
REMEMBERED = 101  # epochs
TICK = 0.1  # seconds
RELEASE_SECONDS = 5.0  # for releasing a trial while the database may be unavailable
FRAMES, LONGEST_STACKS = 40, 50_000  # frames per thread; characters in total

Kind = frozenset[str] | None  # the extra metrics of an epoch; None if it is not evaluated


class Pace:
    """Durations of a trial's epochs, by the metrics they compute."""

    def __init__(self, metrics: MetricsSection, epochs: int, timeout: float | None) -> None:
        self._metrics, self._epochs, self._timeout = metrics, epochs, timeout
        self._seconds = defaultdict[Kind, deque[float]](lambda: deque(maxlen=REMEMBERED))
        self._compiled: set[Kind] = set()  # by this process

    def add(self, report: EpochReport, *, here: bool) -> None:
        """Record an epoch, trained ``here`` or by another process."""
        kind = self._kind(report.epoch)
        self._seconds[kind].append(report.train_seconds + report.evaluate_seconds)
        if here:
            self._compiled.add(kind)

    def limit(self, epoch: int) -> float:
        """Seconds after which the epoch counts as hung."""
        if self._timeout is not None:
            return self._timeout
        compiled = self._kind(epoch) in self._compiled
        return max(SHORTEST_LIMIT if compiled else FIRST_LIMIT, FACTOR * self._median(epoch))

    def suspicious(self, epoch: int) -> float:
        """Seconds after which an abandoned epoch counts against its trial."""
        known = self._kind(epoch) in self._compiled
        return min(self.limit(epoch), FACTOR * self._median(epoch) if known else SHORTEST_LIMIT)

    def longest(self, epoch: int) -> float:
        """Seconds of the longest epoch of this kind; 0 if there was none."""
        return max(self._seconds[self._kind(epoch)], default=0.0)

    def _median(self, epoch: int) -> float:
        return median(self._seconds[self._kind(epoch)] or [0.0])

    def _kind(self, epoch: int) -> Kind:
        if not self._metrics.evaluated(epoch, self._epochs):
            return None
        return frozenset(self._metrics.extras(epoch, self._epochs))


class _Epoch(NamedTuple):
    """An epoch in training; points in time are ``time.monotonic()``."""

    claim: Claim
    number: int
    began: float
    limit: float  # seconds
    suspicious_at: float
    usual_end: float


class Watchdog:
    """Ends the process if an epoch hangs or a stop request takes too long."""

    def __init__(
        self,
        session: WorkerSession,
        stop: Stop,
        announce: Callable[[str], None],
        grace: float | None,
    ) -> None:
        """``grace`` seconds after a signal, the trial is released and the process exits with 0.

        For other stop requests they count from the expected end of the epoch. None for a process
        that must not end: a hung trial is released, and the main thread stays blocked.
        """
        self._session, self._stop, self._announce = session, stop, announce
        self._ends_process, self._grace = grace is not None, grace or 0.0
        self._epoch: _Epoch | None = None
        self._closed = False

    @contextmanager
    def watching(self) -> Iterator[Self]:
        """Watch, from a thread, until the block ends."""
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()
        try:
            yield self
        finally:
            self._closed = True

    @contextmanager
    def epoch(self, claim: Claim, number: int, pace: Pace) -> Iterator[None]:
        """Watch epoch ``number`` of a trial, which the block trains."""
        now = time.monotonic()
        limit, suspicious = pace.limit(number), pace.suspicious(number)
        usual_end = now + pace.longest(number)
        self._epoch = _Epoch(claim, number, now, limit, now + suspicious, usual_end)
        try:
            yield
        finally:
            self._epoch = None

    def _run(self) -> None:
        # After a signal the process must end in time, even if closing the session blocks it.
        while not self._closed or (self._ends_process and self._stop.by_signal):
            time.sleep(TICK)
            if not self._closed and self._session.stop_requested:
                self._stop.request(STOP_COMMAND)
            epoch, now = self._epoch, time.monotonic()
            if epoch is not None and now > epoch.began + epoch.limit:
                self._give_up(epoch)
                return
            if self._ends_process and self._is_over(epoch, now):
                self._abandon(epoch, now)

    def _is_over(self, epoch: _Epoch | None, now: float) -> bool:
        """Whether the grace period of a stop request is over."""
        since, stop = self._stop.since, self._stop
        if since is None or (epoch is None and stop.has_something_to_finish and not stop.by_signal):
            return False
        if epoch is not None and not stop.by_signal:
            since = max(since, epoch.usual_end)
        return now > since + self._grace

    def _abandon(self, epoch: _Epoch | None, now: float) -> None:
        """Release the trial and end the process.

        After an early signal the trial is not to blame: the machine may have been preempted.
        """
        if not self._closed:
            line = f"abandoning the epoch, unfinished after {self._grace:g} s"
            call_within(RELEASE_SECONDS / 5, self._announce, line)
        hung = epoch is not None and (not self._stop.by_signal or now > epoch.suspicious_at)
        call_within(RELEASE_SECONDS, self._session.leave_at_once, hung=hung)
        end_process(self._stop.exit_code)

    def _give_up(self, epoch: _Epoch) -> None:
        """Store the stacks of all threads, release the trial, and end the process."""
        claim, study = epoch.claim, self._session.store.name
        what = f"epoch {epoch.number} hung: unfinished after {epoch.limit:g} s"
        call_within(2 * RELEASE_SECONDS, self._session.give_up_hung, claim, what, stacks())
        line = f"trial {claim.number} {what}; for its stacks: tuner show {study} {claim.number}"
        if self._ends_process:
            end_process(HUNG_EXIT_CODE, line)
        self._announce(line)


def stacks() -> str:
    """Format the stacks of all other threads, the main thread first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames, main = sys._current_frames(), threading.main_thread().ident
    parts = []
    for ident in sorted(frames.keys() - {threading.get_ident()}, key=lambda found: found != main):
        lines = traceback.format_stack(frames[ident])[-FRAMES:]
        parts.append(f"Thread {names.get(ident, ident)}:\n{''.join(lines)}")
    return "\n".join(parts)[:LONGEST_STACKS]
