"""A study's spending and remaining ``[budget]``, over all workers and restarts.

Everything comes from the database, so neither restarts nor lost workers reset it: epochs that were
reported; the seconds that workers have stored with their trials; and the time since the first
worker joined. The seconds of an epoch whose worker was killed are not included.

A worker checks the budget before it claims a trial and after every epoch. Each worker can thus
exceed it by the epoch that it is training when the budget runs out.
"""

import math
from typing import Any, NamedTuple

import pydantic
from optuna.trial import TrialState
from sqlalchemy import ColumnElement, Connection, case, func, select

from tuner.spec.budget import BudgetSection
from tuner.study import rows, tables
from tuner.study.tables import StudyKey

HOUR = 3600.0  # seconds


class Spent(NamedTuple):
    """Amounts in the units of the keys of ``[budget]``."""

    device_hours: float = 0.0
    epochs: int = 0
    wall_hours: float = 0.0


class Budget(NamedTuple):
    """A study's budget and what was spent so far."""

    section: BudgetSection
    spent: Spent
    stopped: int = 0  # trials of the search that have ended or are paused
    by_stopped: Spent = Spent()  # on them; without wall_hours

    @property
    def reason(self) -> str | None:
        """Why nothing more is trained; None while every limit leaves something."""
        return exhausted(self.section, self.spent)

    def trials_left(self, workers: int) -> float | None:
        """How many more trials will end within the budget if they cost as much as those so far;
        ``workers`` are running. None without a limit, or before the first trial has stopped."""
        if self.reason is not None:
            return 0.0
        if not self.stopped or not self.section.limits:
            return None
        limits = self.section.limits.items()
        allowed = {key: limit - getattr(self.spent, key) for key, limit in limits}
        if "wall_hours" in allowed:
            # As device hours of the workers that are running, or of one.
            hours = max(0.0, allowed.pop("wall_hours")) * max(1, workers)
            allowed["device_hours"] = min(hours, allowed.get("device_hours", math.inf))
        return min(max(0.0, self._trials(key, amount)) for key, amount in allowed.items())

    def _trials(self, key: str, amount: float) -> float:
        """The trials that ``amount`` pays for, including what running trials have already used."""
        stopped: float = getattr(self.by_stopped, key)
        running = getattr(self.spent, key) - stopped
        return (amount + running) * self.stopped / stopped if stopped else math.inf


def exhausted(section: BudgetSection, spent: Spent) -> str | None:
    """Why nothing more is trained; None while every limit leaves something."""
    for key, limit in section.limits.items():
        if getattr(spent, key) >= limit:
            return f"budget.{key}: {_USED_UP[key].format(limit=limit)}"
    return None


_USED_UP = {
    "device_hours": "workers have spent all {limit:g} h on trials",
    "epochs": "all {limit:g} epochs are trained",
    "wall_hours": "the first worker joined at least {limit:g} h ago",
}


def read_budget(connection: Connection, study: StudyKey) -> Budget:
    """Read the budget, as last edited, and what was spent. KeyError if the study is gone.

    Takes time in proportion to the number of trials, not of epochs.
    """
    query = select(tables.studies.c.spec, _seconds_since_start(study)).where(study.row())
    row = connection.execute(query).one_or_none()
    if row is None:
        raise KeyError("the study")
    section = _section(row.spec)
    lease = tables.leases.c
    seconds: Any = sum(lease[name] for name in tables.PHASE_COLUMNS.values())
    stopped = lease.status.in_(("done", "paused")) & lease.confirms.is_(None)
    sums = select(
        *(_total(seconds), _total(lease.epoch)),
        *(_total(case((stopped, amount), else_=0)) for amount in (seconds, lease.epoch, 1)),
    ).where(lease.study_id == study.study_id)
    found = [rows.finite(value) or 0.0 for value in connection.execute(sums).one()]
    device, epochs, stopped_device, stopped_epochs, count = found
    wall = max(0.0, rows.finite(row[1]) or 0.0)  # negative if the clock was set back
    return Budget(
        section,
        Spent(device / HOUR, int(epochs), wall / HOUR),
        int(count),
        Spent(stopped_device / HOUR, int(stopped_epochs)),
    )


def _seconds_since_start(study: StudyKey) -> ColumnElement[float]:
    """Seconds since the first worker joined the study; NULL before that."""
    workers = tables.workers.c
    first = select(func.min(workers.joined_at)).where(workers.study_id == study.study_id)
    return tables.db_now() - first.scalar_subquery()


def _total(amount: Any) -> ColumnElement[float]:
    return func.coalesce(func.sum(amount), 0)


def _section(spec: str) -> BudgetSection:
    """The budget in a stored study file; none if another program has damaged it."""
    stored = rows.attribute(spec)
    section = stored.get("budget", {}) if isinstance(stored, dict) else {}
    try:
        return BudgetSection.model_validate(section)
    except pydantic.ValidationError:
        return BudgetSection()


class Unfinished(NamedTuple):
    """Numbers of the trials that a study still has to train."""

    running: int
    released: int  # by their workers, or left behind
    paused: int
    not_begun: int


def read_unfinished(connection: Connection, study: StudyKey, remaining: int) -> Unfinished:
    """Count the trials that a study still has to train, by state; ``remaining`` is their number."""
    lease, trials = tables.leases.c, tables.optuna_trials.c
    held = (lease.status == "held") & (lease.expires_at >= tables.db_now())
    kind = case((lease.status == "paused", "paused"), (held, "running"), else_="released")
    query = (
        select(kind, func.count())
        .join_from(tables.optuna_trials, tables.leases, lease.trial_id == trials.trial_id)
        .where(trials.study_id == study.study_id, trials.state == TrialState.RUNNING)
        .group_by(kind)
    )
    found = {row[0]: int(row[1]) for row in connection.execute(query)}
    running, released, paused = (found.get(k, 0) for k in ("running", "released", "paused"))
    not_begun = max(0, remaining - running - released - paused)
    return Unfinished(running, released, paused, not_begun)
