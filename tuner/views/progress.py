"""Progress of a sweep: live lines in a terminal, one plain line per epoch in a log."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tuner.spec.metrics import OBJECTIVES
from tuner.study.claims import Claim
from tuner.study.sinks import Ending, Released
from tuner.study.store import StudyStore
from tuner.study.verdict import Complete, Fail, Pause, Prune
from tuner.trial import MEASUREMENTS, EpochReport, History
from tuner.views.formatting import duration, number, params_text
from tuner.views.tables import FittingTable

INTERVAL = 10.0  # seconds between two lines about one activity


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


@dataclass
class _Running:
    claim: Claim
    epochs: History
    since: float = field(default_factory=time.monotonic)  # when this worker started it


class LiveProgress:
    """One line per running trial and a progress bar for the study.

    Redrawn in place while its ``live`` context is entered.
    """

    def __init__(self, console: Console, finished: int, total: int, objective: str) -> None:
        self._console, self._finished_before, self._total = console, finished, total
        self._objective = objective
        self._ended = 0
        self._best: tuple[float, int] | None = None
        self._running: dict[int, _Running] = {}
        self._message = "starting"
        self._part: float | None = None
        self._began = time.monotonic()
        self.live = Live(console=console, get_renderable=self._render, refresh_per_second=4)

    def announce(self, text: str, part: float | None = None) -> None:
        """Show a message, with a progress bar if ``part``, the completed share, is given."""
        self._message, self._part = text, part

    def started(self, claim: Claim) -> None:
        self._message, self._part = "", None
        self._running[claim.number] = _Running(claim, History(claim.history))

    def epoch(self, claim: Claim, report: EpochReport) -> None:
        if running := self._running.get(claim.number):
            running.epochs = History((*running.epochs, report))
        value = report.value(self._objective)
        if value is not None and (self._best is None or value < self._best[0]):
            self._best = (value, claim.number)

    def ended(self, claim: Claim, ending: Ending) -> None:
        running = self._running.pop(claim.number, None)
        if isinstance(ending, Released):
            self.announce(f"trial {claim.number} {ending.reason}")
            return
        epochs = running.epochs if running else History(claim.history)
        self._ended += not isinstance(ending, Fail | Pause) and claim.confirms is None
        lowest = min([value for _, value in epochs.measured(self._objective)], default=None)
        self._console.print(
            f"trial {claim.number}: {OBJECTIVES[self._objective]} {number(lowest)}"
            f" after {len(epochs)} epoch{'s' * (len(epochs) != 1)}, {outcome(ending)}",
            highlight=False,
            markup=False,
        )

    def _render(self) -> Group:
        running = list(self._running.values())  # a copy, because rich draws from its own thread
        return Group(self._trials(running), self._overall(), self._activity(running))

    def _trials(self, running: list[_Running]) -> FittingTable:
        measured = (OBJECTIVES[self._objective], "loss ratio", "images/s", "evaluation", "left")
        table = FittingTable(
            ("trial", "epoch", *measured, "settings"),
            prose=["settings"],
            spare=("evaluation", "images/s", "left", "loss ratio"),
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
                    f"{last.images_per_second:,.0f}",
                    f"{epochs.evaluation_share:.0%}",
                    duration(left),
                ]
            done = f"{len(epochs)}/{claim.config.epochs}"
            table.add_row(claim.number, done, *cells, params_text(claim.params))
        return table

    def _activity(self, running: list[_Running]) -> Table | Text:
        """The last message; without one, the trials that are compiling."""
        now = time.monotonic()
        compiling = ", ".join(
            f"trial {one.claim.number}: compiling and training its first epoch here, "
            f"{duration(now - one.since)}"
            for one in running
            if len(one.epochs) == len(one.claim.history)  # its first epoch here can take minutes
        )
        text, part = Text(self._message or compiling, style="dim"), self._part
        if part is None:
            return text
        line = Table.grid(padding=(0, 1))
        line.add_row(ProgressBar(total=1, completed=part, width=30), text)
        return line

    def _overall(self) -> Table:
        finished = self._finished_before + self._ended
        line = Table.grid(padding=(0, 1))
        parts = f"{finished}/{self._total} trials"
        if self._best:
            name, (value, trial) = OBJECTIVES[self._objective], self._best
            parts += f", best {name} here {number(value)} (trial {trial})"
        if self._ended:
            pace = (time.monotonic() - self._began) / self._ended
            parts += f", about {duration(pace * (self._total - finished))} left"
        width = 30 if self._console.width >= 60 else 10
        line.add_row(ProgressBar(total=self._total, completed=finished, width=width), parts)
        return line


@contextmanager
def progress_view(store: StudyStore, console: Console) -> Iterator[LiveProgress | PlainProgress]:
    """The progress display for this console: live in a terminal, else one line per event."""
    if not console.is_terminal:
        yield PlainProgress(console)
        return
    finished, left = store.search_progress()
    view = LiveProgress(console, finished, finished + left, store.spec.metrics.objective)
    with view.live:
        yield view


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
