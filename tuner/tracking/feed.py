"""``Feed``: log trials to a tracker on its own thread, so a failing tracker can't stop training."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from tuner.epoch_report import EpochReport
from tuner.tracking.runs import NO_VALUES, Epoch, Run, TrackedTrial, failure

RETRY = 30.0  # seconds between attempts while a tracker fails
MAX_ATTEMPTS = 20  # for a trial that has ended; then its run stays incomplete
MAX_PICTURES = 8  # that wait; the oldest are dropped
MAX_TRIALS = 50  # that wait; the oldest are dropped


@dataclass
class _Waiting:
    """A trial, and the data that its run in the tracker still lacks."""

    trial: TrackedTrial
    written: int  # the last epoch that the run has, as far as is known
    epochs: list[Epoch]
    pictures: deque[tuple[int, bytes]] = field(default_factory=lambda: deque(maxlen=MAX_PICTURES))
    state: str | None = None  # in which the trial ended; None if it was released
    reason: str | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    left: bool = False  # whether this worker no longer runs it
    run: Run | None = None
    attempts: int = 0


class Feed:
    """Passes trials to one tracker, in order. The methods return at once and never raise.

    A failure is announced once, until something succeeds again. What could not be written is tried
    again later, in a newly opened run.
    """

    def __init__(
        self, name: str, begin: Callable[[TrackedTrial], Run], announce: Callable[[str], None]
    ) -> None:
        self._name, self._begin, self._announce = name, begin, announce
        self._waiting: deque[_Waiting] = deque(maxlen=MAX_TRIALS)
        self._changed = threading.Condition()
        self._news = self._closed = self._failing = False
        self._thread = threading.Thread(target=self._work, name=f"tracking {name}", daemon=True)
        self._thread.start()

    def started(self, trial: TrackedTrial, history: Sequence[EpochReport]) -> None:
        now = time.time()
        epochs = [Epoch(report, now) for report in history]
        self._add(lambda: self._waiting.append(_Waiting(trial, len(history), epochs)))

    def epoch(self, number: int, report: EpochReport) -> None:
        epoch = Epoch(report, time.time())
        self._change(number, lambda one: one.epochs.append(epoch))

    def picture(self, number: int, epoch: int, png: bytes) -> None:
        self._change(number, lambda one: one.pictures.append((epoch, png)))

    def ended(
        self,
        number: int,
        state: str | None,
        reason: str | None,
        values: Mapping[str, float] = NO_VALUES,
    ) -> None:
        """``state`` is None if another worker may continue the trial; ``values``: see ``Run``."""

        def end(one: _Waiting) -> None:
            one.state, one.reason, one.values, one.left = state, reason, values, True

        self._change(number, end)

    def close(self, seconds: float) -> None:
        """Wait at most ``seconds`` until everything is written; do not wait for a tracker that
        fails."""
        with self._changed:
            self._closed = self._news = True
            self._changed.notify_all()
        self._thread.join(seconds)

    def _change(self, number: int, change: Callable[[_Waiting], None]) -> None:
        """Change the trial if this worker still runs it."""

        def change_it() -> None:
            for one in self._waiting:
                if one.trial.number == number and not one.left:
                    change(one)

        self._add(change_it)

    def _add(self, change: Callable[[], None]) -> None:
        with self._changed:
            change()
            self._news = True
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._news)
                self._news, closed = False, self._closed
                waiting = list(self._waiting)
            for one in waiting:
                if not self._attempt(one):
                    break
            if closed:
                self._leave()
                return
            if self._failing:
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, RETRY)
                    self._news = True

    def _attempt(self, one: _Waiting) -> bool:
        """Write a trial's new data; returns whether that succeeded."""
        try:
            done = self._write(one)
            self._failing = False
        except Exception as error:
            self._drop_run(one)
            one.attempts += 1
            done = one.left and one.attempts >= MAX_ATTEMPTS
            if not self._failing:
                self._failing = True
                text = f"logging to {self._name} failed: {failure(error)}"
                self._announce(f"{text}; training continues, {self._name} will be tried again")
        if done:
            with self._changed:
                if one in self._waiting:
                    self._waiting.remove(one)
        return not self._failing

    def _write(self, one: _Waiting) -> bool:
        """Write a trial's new data; returns whether this worker is done with the trial."""
        with self._changed:  # nothing is added to a trial once it is left
            left = one.left
        if one.run is None:
            one.run = self._begin(one.trial)
            if one.run.last_epoch is not None:
                one.written = one.run.last_epoch
        new = [epoch for epoch in [*one.epochs] if epoch.report.epoch > one.written]
        if new:
            one.run.epochs(new)
            one.written = new[-1].report.epoch
        with self._changed:
            one.epochs[:] = [epoch for epoch in one.epochs if epoch.report.epoch > one.written]
        for epoch, png in self._due_pictures(one):
            one.run.picture(epoch, png)
        if left and one.state is not None:
            one.run.end(one.state, one.reason, one.values)
        elif left:
            one.run.close()
        return left

    def _due_pictures(self, one: _Waiting) -> list[tuple[int, bytes]]:
        """Take the pictures of epochs that are written. A picture is tried only once."""
        with self._changed:
            due = [picture for picture in one.pictures if picture[0] <= one.written]
            later = [picture for picture in one.pictures if picture[0] > one.written]
            one.pictures.clear()
            one.pictures.extend(later)
        return due

    def _leave(self) -> None:
        """Close the run of a trial that was not ended, as when the worker exits with an error."""
        for one in list(self._waiting):
            self._drop_run(one)

    def _drop_run(self, one: _Waiting) -> None:
        run, one.run = one.run, None
        with suppress(Exception):
            if run is not None:
                run.close()
