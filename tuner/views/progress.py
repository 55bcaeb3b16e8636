"""A sweep as it runs: live lines in a terminal, one plain line per epoch elsewhere."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tuner.spec import OBJECTIVES
from tuner.study.membership import Claim
from tuner.study.verdict import Complete, Continue, Fail, Prune, Verdict
from tuner.trial import EpochReport
from tuner.views.numbers import duration, number, settings

PAUSE = 10.0  # seconds between lines about one thing that goes on


class PlainProgress:
    """One line per epoch and per ended trial, with the time of day: for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = -PAUSE  # when something was said that goes on

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def announce(self, text: str, part: float | None = None) -> None:
        """``part`` of it is done; what goes on is told now and then."""
        now = time.monotonic()
        if part is not None:
            if now - self._last < PAUSE:
                return
            self._last = now
        self._console.print(
            f"{time.strftime('%H:%M:%S')} {text}", soft_wrap=True, highlight=False, markup=False
        )

    def trial_started(self, claim: Claim) -> None:
        begins = f"goes on after epoch {len(claim.history)}" if claim.history else "starts"
        self.announce(f"trial {claim.number} {begins}: {settings(claim.params)}")

    def epoch_done(self, claim: Claim, report: EpochReport) -> None:
        self.announce(
            f"trial {claim.number} epoch {report.epoch}/{claim.config.epochs}"
            f" {measurements(report)}"
            f" {report.images_per_second:,.0f} images/s"
            f" evaluation {share([report]):.0%}"
        )

    def trial_ended(self, claim: Claim, verdict: Verdict) -> None:
        self.announce(f"trial {claim.number} {outcome(verdict)}")

    def trial_left(self, claim: Claim, why: str) -> None:
        self.announce(f"trial {claim.number} {why}")


@dataclass
class _Running:
    claim: Claim
    reports: list[EpochReport] = field(default_factory=list)


class LiveProgress:
    """A line per running trial under a bar for the whole study, redrawn in place."""

    def __init__(self, console: Console, finished: int, total: int, objective: str) -> None:
        self._console, self._already, self._total = console, finished, total
        self._objective = objective
        self._ended = 0
        self._best: tuple[float, int] | None = None
        self._running: dict[int, _Running] = {}
        self._message = "starting"
        self._part: float | None = None
        self._began = time.monotonic()
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def announce(self, text: str, part: float | None = None) -> None:
        """``part`` of it is done, and shown as a bar."""
        self._message, self._part = text, part

    def trial_started(self, claim: Claim) -> None:
        self._message, self._part = "", None
        self._running[claim.number] = _Running(claim, list(claim.history))

    def epoch_done(self, claim: Claim, report: EpochReport) -> None:
        if claim.number in self._running:
            self._running[claim.number].reports.append(report)
        value = report.value(self._objective)
        if value is not None and (self._best is None or value < self._best[0]):
            self._best = (value, claim.number)

    def trial_ended(self, claim: Claim, verdict: Verdict) -> None:
        running = self._running.pop(claim.number, None)
        reports = running.reports if running else list(claim.history)
        self._ended += not isinstance(verdict, Fail)
        values = [report.value(self._objective) for report in reports]
        lowest = min([value for value in values if value is not None], default=None)
        self._console.print(
            f"trial {claim.number}: {OBJECTIVES[self._objective]} {number(lowest)}"
            f" after {len(reports)} epoch{'s' * (len(reports) != 1)}, {outcome(verdict)}",
            highlight=False,
            markup=False,
        )

    def trial_left(self, claim: Claim, why: str) -> None:
        self._running.pop(claim.number, None)
        self.announce(f"trial {claim.number} {why}")

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False)
        name = OBJECTIVES[self._objective]
        speed = ("images/s", "evaluation", "left")
        for heading in ("trial", "epoch", name, "loss ratio", *speed, "settings"):
            table.add_column(heading, justify="left" if heading == "settings" else "right")
        for running in list(self._running.values()):  # drawn by a thread of rich's
            table.add_row(*_line(running, self._objective))
        return Group(table, self._overall(), self._words())

    def _words(self) -> Table | Text:
        text, part = Text(self._message, style="dim"), self._part
        if part is None:
            return text
        line = Table.grid(padding=(0, 1))
        line.add_row(ProgressBar(total=1, completed=part, width=30), text)
        return line

    def _overall(self) -> Table:
        finished = self._already + self._ended
        line = Table.grid(padding=(0, 1))
        parts = f"{finished}/{self._total} trials"
        if self._best:
            name, (value, trial) = OBJECTIVES[self._objective], self._best
            parts += f", best {name} here {number(value)} (trial {trial})"
        if self._ended:
            pace = (time.monotonic() - self._began) / self._ended
            parts += f", about {duration(pace * (self._total - finished))} left"
        line.add_row(ProgressBar(total=self._total, completed=finished, width=30), parts)
        return line


def _line(running: _Running, objective: str) -> list[str]:
    claim, reports = running.claim, running.reports
    start = [str(claim.number), f"{len(reports)}/{claim.config.epochs}"]
    if not reports:
        return [*start, "", "", "", "", "", settings(claim.params)]
    last = reports[-1]
    values = [report.value(objective) for report in reports]
    newest = [value for value in values if value is not None][-1:]
    seconds = sum(r.train_seconds + r.evaluate_seconds for r in reports) / len(reports)
    left = duration(seconds * (claim.config.epochs - last.epoch))
    return [
        *(*start, number(newest[0] if newest else None), number(last.loss_ratio)),
        *(f"{last.images_per_second:,.0f}", f"{share(reports):.0%}", left, settings(claim.params)),
    ]


def measurements(report: EpochReport) -> str:
    """What was measured after an epoch, in words."""
    named = [
        *(("FID", report.fid), ("KID", report.kid), ("FID infinity", report.fid_infinity)),
        *(("loss ratio", report.loss_ratio), ("D AUC", report.d_auc)),
        *(("variance", report.variance_ratio), ("classes", report.class_coverage)),
        *(("precision", report.precision), ("recall", report.recall)),
        *(("density", report.density), ("coverage", report.coverage)),
    ]
    return " ".join(f"{name} {number(value)}" for name, value in named if value is not None)


def share(reports: Sequence[EpochReport]) -> float:
    """The part of these epochs' time that went into evaluating."""
    evaluating = sum(report.evaluate_seconds for report in reports)
    total = evaluating + sum(report.train_seconds for report in reports)
    return evaluating / total if total else 0.0


def outcome(verdict: Verdict) -> str:
    """What a verdict is called, with its reason."""
    match verdict:
        case Continue():
            return "goes on"
        case Complete():
            return "complete"
        case Prune(reason):
            return f"pruned: {reason}"
        case Fail(reason):
            return f"failed: {reason}"
