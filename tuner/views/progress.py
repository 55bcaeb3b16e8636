"""A sweep as it runs: live lines in a terminal, one plain line per epoch elsewhere."""

import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tuner.study.membership import Claim
from tuner.study.verdict import Complete, Continue, Fail, Prune, Verdict
from tuner.trial import EpochReport
from tuner.views.numbers import duration, number


class PlainProgress:
    """One line per epoch and per ended trial, with the time of day: for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def announce(self, text: str) -> None:
        self._console.print(
            f"{time.strftime('%H:%M:%S')} {text}", soft_wrap=True, highlight=False, markup=False
        )

    def trial_started(self, claim: Claim) -> None:
        begins = f"goes on after epoch {len(claim.history)}" if claim.history else "starts"
        self.announce(f"trial {claim.number} {begins}: {settings(claim.params)}")

    def epoch_done(self, claim: Claim, report: EpochReport) -> None:
        self.announce(
            f"trial {claim.number} epoch {report.epoch}/{claim.config.epochs}"
            f" FID {number(report.fid)} loss ratio {number(report.loss_ratio)}"
            f" D AUC {number(report.d_auc)} variance {number(report.variance_ratio)}"
            f" {report.images_per_second:,.0f} images/s"
            f" evaluation {share(report):.0%}"
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

    def __init__(self, console: Console, finished: int, total: int) -> None:
        self._console, self._already, self._total = console, finished, total
        self._ended = 0
        self._best: tuple[float, int] | None = None
        self._running: dict[int, _Running] = {}
        self._message = "starting"
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

    def announce(self, text: str) -> None:
        self._message = text

    def trial_started(self, claim: Claim) -> None:
        self._message = ""
        self._running[claim.number] = _Running(claim, list(claim.history))

    def epoch_done(self, claim: Claim, report: EpochReport) -> None:
        if claim.number in self._running:
            self._running[claim.number].reports.append(report)
        if report.fid is not None and (self._best is None or report.fid < self._best[0]):
            self._best = (report.fid, claim.number)

    def trial_ended(self, claim: Claim, verdict: Verdict) -> None:
        running = self._running.pop(claim.number, None)
        reports = running.reports if running else list(claim.history)
        self._ended += not isinstance(verdict, Fail)
        fids = [report.fid for report in reports if report.fid is not None]
        self._console.print(
            f"trial {claim.number}: FID {number(min(fids, default=None))}"
            f" after {len(reports)} epoch{'s' * (len(reports) != 1)}, {outcome(verdict)}",
            highlight=False,
            markup=False,
        )

    def trial_left(self, claim: Claim, why: str) -> None:
        self._running.pop(claim.number, None)
        self._message = f"trial {claim.number} {why}"

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for heading in ("trial", "epoch", "FID", "loss ratio", "images/s", "left", "settings"):
            table.add_column(heading, justify="left" if heading == "settings" else "right")
        for running in list(self._running.values()):  # drawn by a thread of rich's
            table.add_row(*_line(running))
        return Group(table, self._overall(), Text(self._message, style="dim"))

    def _overall(self) -> Table:
        finished = self._already + self._ended
        line = Table.grid(padding=(0, 1))
        parts = f"{finished}/{self._total} trials"
        if self._best:
            parts += f", best FID here {number(self._best[0])} (trial {self._best[1]})"
        if self._ended:
            pace = (time.monotonic() - self._began) / self._ended
            parts += f", about {duration(pace * (self._total - finished))} left"
        line.add_row(ProgressBar(total=self._total, completed=finished, width=30), parts)
        return line


def _line(running: _Running) -> list[str]:
    claim, reports = running.claim, running.reports
    start = [str(claim.number), f"{len(reports)}/{claim.config.epochs}"]
    if not reports:
        return [*start, "", "", "", "", settings(claim.params)]
    last = reports[-1]
    seconds = last.train_seconds + last.evaluate_seconds
    left = duration(seconds * (claim.config.epochs - last.epoch))
    speed = f"{last.images_per_second:,.0f}"
    return [
        *start, number(last.fid), number(last.loss_ratio), speed, left, settings(claim.params)
    ]  # fmt: skip


def share(report: EpochReport) -> float:
    """The part of an epoch's time that went into evaluating."""
    return report.evaluate_seconds / (report.train_seconds + report.evaluate_seconds)


def settings(params: dict[str, object]) -> str:
    """``learning_rate=0.0002 batch_size=64``."""
    return " ".join(
        f"{name}={number(value) if isinstance(value, float) else value}"
        for name, value in params.items()
    )


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
