"""``Run``: a trial in a tracker, and the data that all trackers receive."""

import importlib
import importlib.util
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from tuner import hints
from tuner.epoch_report import EpochReport
from tuner.errors import InputError, one_line
from tuner.spec.metrics import ALL_OBJECTIVES
from tuner.spec.tracking import TRACKERS
from tuner.study.records import Confirms

_SECRET = re.compile("KEY|TOKEN|SECRET|PASS|AUTH|UR[IL]")  # in names of variables
_USER = re.compile(r"//[^/\s]*@")  # the user and password of a URL
NO_EXTRA = ("trackio",)  # installed separately: see pyproject.toml
MAX_SHOWN = 300  # characters of a failure
NO_VALUES: Mapping[str, float] = {}


class TrackedTrial(NamedTuple):
    """A trial as trackers identify it: any worker that runs it continues the same run."""

    study: str
    folder: str  # of the study's files: its name and the start of its token
    number: int
    params: dict[str, Any]
    confirms: Confirms | None = None

    @property
    def name(self) -> str:
        return f"trial-{self.number:05d}"

    @property
    def identity(self) -> str:
        """The same on all workers, and different for every trial of every study."""
        return f"{self.folder[-8:]}-{self.number:05d}"

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The searched settings; for a run that confirms a trial, also which one and the seed."""
        if self.confirms is None:
            return self.params
        return self.params | {"confirms": self.confirms.trial, "seed": self.confirms.seed}


class Epoch(NamedTuple):
    """A report, and when it was made, in seconds since 1970."""

    report: EpochReport
    at: float

    @property
    def measured(self) -> dict[str, float]:
        """The finite numbers of the report by field, without the epoch, and custom metrics by name,
        with a dot instead of the colon."""
        found = self.report._asdict()
        own = {name.replace(":", "."): value for name, value in found.pop("own").items()}
        del found["epoch"]
        numbers = {name: float(value) for name, value in (found | own).items() if value is not None}
        return {name: value for name, value in numbers.items() if math.isfinite(value)}


class Run(Protocol):
    """A trial's run in a tracker, opened by the function ``begin`` of the tracker's module.

    Data that a method has written is durable when it returns. Any exception may be raised; then the
    run is dropped, and ``begin`` is called again.
    """

    last_epoch: int | None  # the last epoch that the run has; 0: none; None: it can't be known

    def epochs(self, epochs: Sequence[Epoch]) -> None:
        """Add epochs, all of them after ``last_epoch``."""

    def picture(self, epoch: int, png: bytes) -> None:
        """Add the sample grid of an epoch, unless the run has it."""

    def end(self, state: str, reason: str | None, values: Mapping[str, float]) -> None:
        """The trial has ended, as COMPLETE, PRUNED or FAIL; ``values`` are those of objectives that
        no epoch reports: see ``unmeasured``."""

    def close(self) -> None:
        """Leave the run open: another worker will continue it."""


def unmeasured(objectives: Mapping[str, float]) -> dict[str, float]:
    """Those of a trial's objectives that no epoch reports: its seconds and its parameters."""
    return {name: v for name, v in objectives.items() if not ALL_OBJECTIVES[name].measured}


def begin(tracker: str, trial: TrackedTrial) -> Run:
    """Begin or continue the trial's run in a tracker of ``TRACKERS``."""
    run: Run = importlib.import_module(f"tuner.tracking.{tracker}").begin(trial)
    return run


def check_installed(trackers: Iterable[str]) -> None:
    """InputError if the package of a tracker is missing; nothing is imported."""
    for tracker in trackers:
        module = TRACKERS[tracker]
        if importlib.util.find_spec(module) is None:
            raise InputError(
                f"tracking.to: {tracker!r} needs the package {module}; install it with "
                f"{'pip install trackio' if tracker in NO_EXTRA else hints.install(tracker)}"
            )


def failure(error: BaseException) -> str:
    """A tracker's failure in one line, without addresses and passwords from the environment."""
    text = one_line(error, _without_secrets)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _without_secrets(text: str) -> str:
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= 4:
            text = text.replace(value, f"${name}")
            for word in value.replace(",", " ").split():
                password = _password(word)
                text = text.replace(password, "***") if password else text
    return _USER.sub("//", text)


def _password(url: str) -> str | None:
    try:
        return urlsplit(url).password
    except ValueError:
        return None
