"""Interfaces that a worker calls while it runs trials: sinks, and a dashboard publisher."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np

from tuner.epoch_report import EpochReport
from tuner.study.claims import Claim
from tuner.study.records import TrialRecord
from tuner.study.verdict import Complete, Fail, Pause, Prune


class Released(NamedTuple):
    """The worker no longer runs the trial, which has not ended."""

    reason: str


Ending = Complete | Pause | Prune | Fail | Released


class TrialSink(Protocol):
    """An observer of a worker's trials: terminal, log, metrics. Called from the worker's thread."""

    def started(self, claim: Claim) -> None:
        """The worker owns the trial; if it resumes it, ``claim.history`` is not empty."""

    def epoch(self, claim: Claim, report: EpochReport) -> None:
        """The report is stored in the database."""

    def ended(self, claim: Claim, ending: Ending) -> None:
        """The verdict is stored in the database, or the trial is released."""

    def announce(self, text: str, part: float | None = None) -> None:
        """One line about the worker; ``part`` is the completed share of what ``text`` names."""


class Sinks:
    """Several sinks as one."""

    def __init__(self, *sinks: TrialSink) -> None:
        self._sinks = sinks

    def started(self, claim: Claim) -> None:
        for sink in self._sinks:
            sink.started(claim)

    def epoch(self, claim: Claim, report: EpochReport) -> None:
        for sink in self._sinks:
            sink.epoch(claim, report)

    def ended(self, claim: Claim, ending: Ending) -> None:
        for sink in self._sinks:
            sink.ended(claim, ending)

    def announce(self, text: str, part: float | None = None) -> None:
        for sink in self._sinks:
            sink.announce(text, part)


class Publication(NamedTuple):
    """The part of a trial's last transaction that the dashboard shows."""

    attributes: Mapping[str, str] = {}
    note: str | None = None  # Markdown


class Publisher:
    """Publishes nothing. A subclass publishes trials in the dashboard.

    Not a ``TrialSink``: what it returns is stored in the trial's own transactions, so a worker that
    has lost a trial publishes nothing about it.
    """

    def study(self, *, ended: bool = False) -> None:
        """Refresh the plots of the study; ``ended`` if no trial is left to run."""

    def real_images(self, images: np.ndarray) -> None:
        """Some real images (n, h, w, c), uint8, before the first trial."""

    def begin(self, claim: Claim) -> None:
        """Start a trial, which the following calls are about."""

    def samples(self, epoch: int, samples: np.ndarray | None) -> None:
        """Images (n, h, w, c), uint8, generated after ``epoch``; None if it was not evaluated."""

    def neighbours(self, strips: np.ndarray) -> None:
        """Images (n, k, h, w, c), uint8, of the trial's best generator: a sample, then the training
        images nearest to it."""

    def attributes(self, report: EpochReport) -> Mapping[str, str]:
        """Optuna attributes to store with the report."""
        return {}

    def end(self, trial: TrialRecord, best_epoch: int, samples: np.ndarray | None) -> Publication:
        """Attributes and note to store as ``trial`` ends; ``samples`` are of its best epoch."""
        return Publication()

    def close(self) -> None:
        """Drop anything not published yet: the worker no longer runs the trial."""
