"""Trials and studies as read from the database, and the trial attributes that tuner writes."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState

from tuner.epoch_report import EpochReport, History
from tuner.phases import UNCOUNTED, PhaseSeconds
from tuner.spec.branches import setting_params
from tuner.spec.constraint import VIOLATED, Size
from tuner.spec.metrics import ALL_OBJECTIVES
from tuner.study import rows
from tuner.study.rows import UNREADABLE, printable

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)  # trials that count towards a study's total
MAX_REASON = 4000  # characters
DEQUEUED = "removed from the queue"  # the reason stored with a trial that a user dequeued

# Attributes of Optuna's trials.
REASON, ARTIFACT, MACHINE = "tuner:reason", "tuner:generator", "tuner:machine"
TRACEBACK, BASELINE, HUNG = "tuner:traceback", "tuner:baseline", "tuner:hung"
WARM_START = "tuner:warm_start"  # the study and trial whose configuration it was queued with
PAUSED = "tuner:paused"  # the epoch after which the trial was paused last
CONFIRMS = "tuner:confirms"  # see Confirms
FRESH = "tuner:fresh"  # the objective of the stored generator on fresh latents
SIZE = "tuner:parameters"  # weights of the generator and of the discriminator
SEED_OF = "tuner:seed_of"  # the trial whose random numbers are drawn again


class Confirms(NamedTuple):
    """Marks a trial that repeats another one with a seed of its own; samplers do not see it."""

    trial: int  # the number of the other
    seed: int  # index of the seed, from 0


class TrialRecord(NamedTuple):
    """A trial as stored. ``value`` is the one that Optuna compares; None if never measured.

    In a study with several objectives it is that of the first one.
    """

    number: int
    state: str  # RUNNING, PAUSED, COMPLETE, PRUNED, FAIL
    params: dict[str, Any]
    value: float | None
    reports: tuple[EpochReport, ...]
    reason: str | None
    artifact: str | None
    machine: dict[str, str]
    seed_of: int | None = None  # the trial whose random numbers it draws again, if any
    baseline: bool = False  # whether its parameters are a baseline of the study file
    started: str | None = None  # "2026-05-31 14:05 UTC"
    ended: str | None = None
    seconds: float | None = None  # from start to end; None before the end
    phase_seconds: PhaseSeconds = UNCOUNTED  # of all its workers
    confirms: Confirms | None = None
    fresh: float | None = None  # objective of the stored generator on fresh latents
    paused_at: int | None = None  # the epoch of the rung at which it is, or has ended, paused
    warm_start: str | None = None  # "trial 3 of study old", whose configuration it was queued with
    objectives: Mapping[str, float] = {}  # by name, of a complete trial with several objectives

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen to the trial."""
        return self.state not in ("RUNNING", "PAUSED")

    @property
    def was_excluded(self) -> bool:
        """Whether it has ended without being trained, because it violates ``[constraint]`` or a
        user removed it from the queue."""
        return self.reason is not None and (
            self.reason == DEQUEUED or self.reason.startswith(VIOLATED)
        )

    @property
    def cost(self) -> float | None:
        """The value, so that lower is better."""
        first = next(iter(self.objectives), "fid")
        higher = ALL_OBJECTIVES[first].higher
        return -self.value if higher and self.value is not None else self.value

    @property
    def history(self) -> History:
        """The reports, with sums and best values computed from them."""
        return History(self.reports)

    def best_epoch(self, objective: str) -> int | None:
        """The epoch that the trial's value comes from; None if it has no value."""
        if self.value is None:
            return None
        return next((r.epoch for r in self.reports if r.value(objective) == self.value), None)


class StudySummary(NamedTuple):
    """One study among those in a database."""

    name: str
    total: int
    states: dict[str, int]
    best: float | None
    objective: str  # display name of the metric that ``best`` is a value of
    fingerprint: str | None  # of the measurement; None before the first worker is ready
    on_hold: bool = False  # by tuner pause
    ended_reason: str | None = None  # why the search has ended before its total, if it has
    workers: int = 0  # alive
    budget_reason: str | None = None  # why the budget lets no more be trained, if it does not

    @property
    def is_idle(self) -> bool:
        """Whether trials are left that a worker could run, and there is none."""
        finished = sum(self.states.get(state.name, 0) for state in FINISHED)
        over = self.ended_reason or self.budget_reason or finished >= self.total
        return not over and not self.workers


class Hang(NamedTuple):
    """The last hang of a trial."""

    reported: int  # epochs before it
    what: str  # such as "epoch 2 hung"
    stacks: str  # of all threads


class Ownership(NamedTuple):
    """The epochs of a trial that one worker reported under one lease.

    Times are seconds since 1970 by the database's clock.
    """

    host: str | None  # None if the database no longer has the worker
    device: str | None
    worker: str | None
    first_epoch: int
    last_epoch: int
    first_reported_at: float
    last_reported_at: float


def best_of(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """The complete trial with the best value, if any."""
    return next(iter(ranked(trials)), None)


def ranked(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The search's complete trials with a value, the best first."""
    complete = [
        t for t in trials if t.state == "COMPLETE" and t.value is not None and not t.confirms
    ]
    return sorted(complete, key=lambda trial: (trial.cost, trial.number))


def record_of(
    trial: FrozenTrial,
    reports: Sequence[EpochReport],
    phase_seconds: PhaseSeconds = UNCOUNTED,
    *,
    paused: bool = False,
    objectives: Sequence[str] = ("fid",),
) -> TrialRecord:
    """Convert Optuna's trial, which is RUNNING while it is ``paused``, of a study with these
    ``objectives``; attributes whose type tuner never writes are left out."""
    attributes = trial.user_attrs
    reason = rows.text(attributes.get(REASON))
    if reason is None and UNREADABLE in attributes:
        reason = f"its {attributes[UNREADABLE]} can't be read"
    params = setting_params(trial.params)
    values = trial.values or []
    if len(objectives) > 1 and trial.state == TrialState.PRUNED and trial.last_step is not None:
        values = [trial.intermediate_values[trial.last_step]]  # as with one objective
    named = {name: rows.finite(value) for name, value in zip(objectives, values, strict=False)}
    known = {name: value for name, value in named.items() if value is not None}
    whole = len(objectives) > 1 and len(known) == len(values) == len(objectives)
    return TrialRecord(
        number=trial.number,
        state="PAUSED" if paused and trial.state == TrialState.RUNNING else trial.state.name,
        params={printable(k): rows.text(v) or v for k, v in params.items()},
        value=rows.finite(values[0]) if whole or len(values) == 1 else None,
        reports=tuple(reports),
        reason=reason and reason[:MAX_REASON],
        artifact=rows.text(attributes.get(ARTIFACT)),
        machine=rows.texts(attributes.get(MACHINE)),
        seed_of=rows.whole(attributes.get(SEED_OF)),
        baseline=attributes.get(BASELINE) is True,
        started=_minute(trial.datetime_start),
        ended=_minute(trial.datetime_complete),
        seconds=None if trial.duration is None else trial.duration.total_seconds(),
        phase_seconds=phase_seconds,
        confirms=confirms_of(attributes),
        fresh=rows.finite(attributes.get(FRESH)),
        paused_at=trial.last_step if attributes.get(PAUSED) == trial.last_step else None,
        warm_start=warm_start_of(attributes),
        objectives=known if whole else {},
    )


def confirms_of(attributes: Mapping[str, Any]) -> Confirms | None:
    """What a trial with these attributes confirms; None if it belongs to the search."""
    match attributes.get(CONFIRMS):
        case {"trial": int(trial), "seed": int(seed)} if trial >= 0 and seed >= 0:
            return Confirms(trial, seed)
    return None


def size_of(attributes: Mapping[str, Any]) -> Size | None:
    """The weights of the networks of a trial with these attributes; None if they are unknown."""
    match attributes.get(SIZE):
        case [int(generator), int(discriminator)]:
            return Size(generator, discriminator)
    return None


def warm_start_of(attributes: Mapping[str, Any]) -> str | None:
    """The trial whose configuration a trial with these attributes was queued with, if any."""
    match attributes.get(WARM_START):
        case {"study": str(study), "trial": int(number)}:
            return f"trial {number} of study {printable(study)}"
    return None


def _minute(moment: datetime | None) -> str | None:
    """The minute of a time that Optuna has converted to this machine's time zone."""
    return None if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M %Z}"


def hang_of(attributes: Mapping[str, Any]) -> Hang | None:
    """The last hang in a trial's attributes; None if there is none that can be read."""
    match attributes.get(HUNG):
        case {"reported": int(reported), "what": str(what), "stacks": str(stacks)}:
            return Hang(reported, rows.printable(what), rows.printable(stacks))
    return None
