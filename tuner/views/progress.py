"""Progress of a sweep: live lines in a terminal, one plain line per epoch in a log."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tuner.epoch_report import FIELDS, MEASUREMENTS, EpochReport, History
from tuner.errors import StorageError
from tuner.phases import PhaseClock
from tuner.spec.metrics import OBJECTIVES
from tuner.study.claims import Claim
from tuner.study.objectives import cost
from tuner.study.sinks import Ending, Released
from tuner.study.snapshot import StudyPoller, seconds_left
from tuner.study.store import StudyStore
from tuner.study.verdict import Complete, Fail, Pause, Prune
from tuner.views.formatting import duration, number, params_text
from tuner.views.tables import FittingTable

INTERVAL = 10.0  # seconds between two lines about one activity
MAX_LINES = 4  # about workers without a trial
ESTIMATE_AGE = 5.0  # seconds until the time left is estimated again


class PlainProgress:
    """One line per epoch and per ended trial, with the time of day."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = -INTERVAL  # when a line about an activity was last printed

    def announce(self, text: str, part: float | None = None) -> None:
        """Print a line; rate-limited if ``part``, the completed share of an activity, is given."""
        now = time.monotonic()
        if part is not None:
            if now - self._last < INTERVAL:
                return
            self._last = now
        line = " ".join(text.splitlines())  # so that each event is one line
        self._console.print(
            f"{time.strftime('%H:%M:%S')} {line}", soft_wrap=True, highlight=False, markup=False
        )

    def started(self, claim: Claim) -> None:
        if claim.prune_reason is not None:
            return  # it ends at once
        reported = len(claim.history)
        begins = f"continues after epoch {reported}" if reported else "starts"
        if claim.confirms is not None:
            trial, seed = claim.confirms
            begins += f" (trial {trial} again, seed {seed + 1})"
        if reported and reported == claim.rung:
            begins = f"promoted after epoch {reported}"
        elif claim.predecessor:
            begins += f" (trained by {claim.predecessor})"
        if claim.lost:
            self.announce(taken_over(claim))
        self.announce(f"trial {claim.number} {begins}: {params_text(claim.params)}")

    def epoch(self, claim: Claim, report: EpochReport) -> None:
        measured = [
            (field.label, report.value(field.name)) for field in MEASUREMENTS if field.logged
        ]
        measured += [(OBJECTIVES[name], value) for name, value in report.own.items()]
        known = [f"{label} {number(value)}" for label, value in measured if value is not None]
        self.announce(
            f"trial {claim.number} epoch {report.epoch}/{claim.config.epochs} {' '.join(known)}"
            f" {report.images_per_second:,.0f} images/s"
            f" evaluation {History([report]).evaluation_share:.0%}"
        )

    def ended(self, claim: Claim, ending: Ending) -> None:
        self.announce(f"trial {claim.number} {outcome(ending)}")

    def follow(self, clock: PhaseClock) -> None:
        """Show what the clock's thread is doing; ignored in a log."""

    def doing(self, worker: int, trial: int | None, what: str, seconds: float) -> None:
        """Show what another process is doing; ignored in a log."""


@dataclass
class _Running:
    claim: Claim
    epochs: History


class _Doing(NamedTuple):
    """What a worker is doing."""

    trial: int | None
    what: str  # empty if no activity has lasted
    since: float  # time.monotonic()

    @property
    def text(self) -> str:
        seconds = time.monotonic() - self.since
        return f"{self.what} {duration(seconds)}" if seconds >= 1 else self.what


class LiveProgress:
    """One line per running trial, with what its worker is doing, and a progress bar for the study.

    Redrawn in place while its ``live`` context is entered.
    """

    def __init__(
        self,
        console: Console,
        finished: int,
        total: int,
        objective: str,
        seconds_left: Callable[[], float | None],
    ) -> None:
        """``seconds_left`` estimates the time to the study's end from its database; it is called
        after an event, never while the view is drawn."""
        self._console, self._finished_before, self._total = console, finished, total
        self._objective, self._seconds_left = objective, seconds_left
        self._estimated = -ESTIMATE_AGE  # time.monotonic() of the last estimate
        self._end: float | None = None  # time.monotonic() of the study's end, as estimated
        self._ended = 0
        self._best: tuple[float, int] | None = None
        self._running: dict[int, _Running] = {}
        self._message = ""
        self._part: float | None = None
        self._clock: PhaseClock | None = None
        self._doing = {0: _Doing(None, "starting JAX", time.monotonic())}  # by worker
        self.live = Live(console=console, get_renderable=self._render, refresh_per_second=4)

    def announce(self, text: str, part: float | None = None) -> None:
        """Print a line above the live ones; if ``part``, the completed share, is given, show it
        with a progress bar instead."""
        self._message, self._part = ("", None) if part is None else (text, part)
        if part is None:
            self._console.print(" ".join(text.splitlines()), highlight=False, markup=False)

    def follow(self, clock: PhaseClock) -> None:
        """Show what the clock's thread is doing."""
        self._clock = clock

    def doing(self, worker: int, trial: int | None, what: str, seconds: float) -> None:
        """Show what a worker process has been doing for ``seconds``; nothing if that is empty."""
        self._doing[worker] = _Doing(trial, what, time.monotonic() - seconds)

    def started(self, claim: Claim) -> None:
        self._message, self._part = "", None
        if claim.lost:
            self.announce(taken_over(claim))
        self._running[claim.number] = _Running(claim, History(claim.history))

    def epoch(self, claim: Claim, report: EpochReport) -> None:
        if running := self._running.get(claim.number):
            running.epochs = History((*running.epochs, report))
        value = report.value(self._objective)
        if value is not None and (self._best is None or self._is_better(value, self._best[0])):
            self._best = (value, claim.number)
        self._estimate()

    def _estimate(self) -> None:
        now = time.monotonic()
        if now - self._estimated >= ESTIMATE_AGE:
            self._estimated, left = now, self._seconds_left()
            self._end = None if left is None else now + left

    def _is_better(self, one: float, other: float) -> bool:
        return cost(self._objective, one) < cost(self._objective, other)

    def ended(self, claim: Claim, ending: Ending) -> None:
        running = self._running.pop(claim.number, None)
        if isinstance(ending, Released):
            self.announce(f"trial {claim.number} {ending.reason}")
            return
        epochs = running.epochs if running else History(claim.history)
        self._ended += not isinstance(ending, Fail | Pause) and claim.confirms is None
        best = epochs.best_value(self._objective)
        self._console.print(
            f"trial {claim.number}: {OBJECTIVES[self._objective]} {number(best)}"
            f" after {len(epochs)} epoch{'s' * (len(epochs) != 1)}, {outcome(ending)}",
            highlight=False,
            markup=False,
        )

    def _render(self) -> Group:
        running = list(self._running.values())  # a copy, because rich draws from its own thread
        if self._clock is not None:
            activity, number = self._clock.activity, next(iter(self._running), None)
            seconds = self._clock.elapsed(activity)
            self._doing = {0: _Doing(number, activity.what, time.monotonic() - seconds)}
        doing = dict(self._doing)
        busy = {one.trial: one.text for one in doing.values() if one.what}
        return Group(self._trials(running, busy), self._overall(), *self._others(doing))

    def _trials(self, running: list[_Running], busy: dict[int | None, str]) -> FittingTable:
        last_reports = [trial.epochs[-1] for trial in running if trial.epochs]
        adapts = any(report.augmentation is not None for report in last_reports)
        augmentation = [FIELDS["augmentation"].label] * adapts
        measured = (OBJECTIVES[self._objective], "loss ratio", *augmentation)
        measured += ("images/s", "evaluation", "left")
        table = FittingTable(
            ("trial", "epoch", "doing", *measured, "settings"),
            prose=["settings"],
            left=["doing"],
            spare=("evaluation", "images/s", "left", *augmentation, "loss ratio"),
        )
        for trial in running:
            claim, epochs = trial.claim, trial.epochs
            cells = [""] * len(measured)
            if epochs:
                last = epochs[-1]
                left = epochs.seconds / len(epochs) * (claim.config.epochs - last.epoch)
                cells = [
                    number(epochs.last_value(self._objective)),
                    number(last.loss_ratio),
                    *([number(last.augmentation)] * adapts),
                    f"{last.images_per_second:,.0f}",
                    f"{epochs.evaluation_share:.0%}",
                    duration(left),
                ]
            done = f"{len(epochs)}/{claim.config.epochs}"
            doing = busy.get(claim.number, "training")
            table.add_row(claim.number, done, doing, *cells, params_text(claim.params))
        return table

    def _others(self, doing: dict[int, _Doing]) -> Iterator[Table | Text]:
        """The activities of workers without a trial, with progress if it is known."""
        idle = {worker: one for worker, one in doing.items() if one.trial is None and one.what}
        for worker, one in list(idle.items())[:MAX_LINES]:
            name = f"worker {worker}: " if len(doing) > 1 else ""
            yield Text(f"{name}{one.text}", style="dim")
        if self._part is not None:
            line = Table.grid(padding=(0, 1))
            text = Text(self._message, style="dim")
            line.add_row(ProgressBar(total=1, completed=self._part, width=30), text)
            yield line

    def _overall(self) -> Table:
        finished = self._finished_before + self._ended
        line = Table.grid(padding=(0, 1))
        parts = f"{finished}/{self._total} trials"
        if self._best:
            name, (value, trial) = OBJECTIVES[self._objective], self._best
            parts += f", best {name} here {number(value)} (trial {trial})"
        if self._end is not None:
            parts += f", about {duration(max(0.0, self._end - time.monotonic()))} left"
        width = 30 if self._console.width >= 100 else 10
        line.add_row(ProgressBar(total=self._total, completed=finished, width=width), parts)
        return line


@contextmanager
def progress_view(store: StudyStore, console: Console) -> Iterator[LiveProgress | PlainProgress]:
    """The progress display for this console: live in a terminal, else one line per event."""
    if not console.is_terminal:
        yield PlainProgress(console)
        return
    finished, left = store.search_progress()
    poller, spec = StudyPoller(store), store.spec

    def estimate() -> float | None:
        with suppress(StorageError):
            return seconds_left(poller.snapshot(), spec.study.epochs)
        return None

    view = LiveProgress(console, finished, finished + left, spec.metrics.objective, estimate)
    with view.live:
        yield view


def taken_over(claim: Claim) -> str:
    """A line naming the lost worker that the trial was taken over from."""
    return f"took over trial {claim.number} from {claim.lost}"


def outcome(ending: Ending) -> str:
    """How a trial ended, or why it was released."""
    match ending:
        case Released(reason) | Pause(reason):
            return reason
        case Complete():
            return "complete"
        case Prune(reason):
            return f"pruned: {reason}"
        case Fail(reason):
            return f"failed: {reason}"
