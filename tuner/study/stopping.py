"""End a search early: ``[stop] patience`` trials in a row have not improved the best value.

An improvement counts if it is larger than the study's own seed noise; smaller ones add up until
they are. Trials count in the order in which they ended, by the database's clock: complete and
pruned ones, and those that are paused at a rung. Failed ones do not, nor do those that violate
``[constraint]``, nor runs that confirm others. The reason is stored with the study, so all workers
agree. Running trials then finish, queued ones still run, and paused ones end as when the total is
reached.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import select, update

from tuner.spec.metrics import OBJECTIVES
from tuner.spec.study import StudySpec
from tuner.study import tables
from tuner.study.queue import queued
from tuner.study.records import TrialRecord, record_of
from tuner.study.seed_noise import seed_noise
from tuner.study.store import StudyStore

STOPPED = ("COMPLETE", "PRUNED", "PAUSED")


class Stopped(NamedTuple):
    """A trial that has ended or is paused."""

    at: float  # when, in seconds since 1970
    number: int
    value: float | None  # None unless it is complete


class Stall(NamedTuple):
    """A search that no longer improves."""

    trials: int  # since the last improvement
    best: Stopped  # the last improvement


def stall(
    patience: int, trials: Sequence[Stopped], noise: float = 0.0, since: float | None = None
) -> Stall | None:
    """The stall of a search whose last ``patience`` trials did not improve by more than ``noise``;
    None if the search continues, as it does before its first complete trial.

    Trials that stopped before ``since`` do not count towards the patience.
    """
    best: Stopped | None = None
    count = 0
    for trial in sorted(trials):
        value, lowest = trial.value, None if best is None else best.value
        if value is not None and (lowest is None or value < lowest - noise):
            best, count = trial, 0
        elif since is None or trial.at > since:
            count += 1
    return Stall(count, best) if best is not None and count >= patience else None


def noise_near_best(spec: StudySpec, trials: Sequence[TrialRecord]) -> float:
    """The standard deviation of the study's values over seeds; 0 if nothing is known about it.

    Without repeated configurations it is the upper bound from neighbours in the search space, among
    the better half of the trials: neighbours with bad values differ by much more than their seeds.
    """
    measured = seed_noise(spec, trials).deviation
    if measured is not None:
        return measured
    values = [(t.value, t.number, t) for t in trials if t.state == "COMPLETE" and not t.confirms]
    ranked = [t for value, _, t in sorted(values, key=lambda v: v[:2]) if value is not None]
    return seed_noise(spec, ranked[: (len(ranked) + 1) // 2]).bound or 0.0


def end_if_stalled(store: StudyStore, spec: StudySpec) -> None:
    """Store that the search has ended, unless trials are queued. KeyError if the study is gone."""
    if spec.stop.patience is None:
        return
    ours = tables.studies.c
    with store.database.reading() as connection:
        row = select(ours.total, ours.ended_reason, ours.patience_from).where(store.key.row())
        study = connection.execute(row).one_or_none()
        if study is None:
            raise KeyError("the study")
        if study.ended_reason is not None:
            return
        if connection.execute(queued(store.study_id, 1)).first():
            return
    trials = store.study.get_trials(deepcopy=False)
    stopped_at, paused = _stopped(store)
    records = [record_of(t, (), paused=t.number in paused) for t in trials]
    search = [t for t in records if t.state != "FAIL" and not t.confirms]
    if len(search) >= study.total:
        return
    found = stall(
        spec.stop.patience,
        [
            Stopped(stopped_at.get(t.number) or 0.0, t.number, _value(t))
            for t in search
            if t.state in STOPPED and not t.was_excluded
        ],
        noise := noise_near_best(spec, records),
        study.patience_from,
    )
    if found is None:
        return
    # Not if the total was raised meanwhile, or if another worker has stored it.
    same = ours.patience_from.is_not_distinct_from(study.patience_from)
    same &= ours.ended_reason.is_(None)
    reason = {"ended_reason": _reason(found, noise, OBJECTIVES[spec.metrics.objective])}
    store.database.execute(update(tables.studies).where(store.key.row(), same).values(reason))


def _value(trial: TrialRecord) -> float | None:
    return trial.value if trial.state == "COMPLETE" else None


def _reason(found: Stall, noise: float, metric: str) -> str:
    trials = f"{found.trials} trial{'s in a row have' if found.trials > 1 else ' has'}"
    by = f" by more than the seed noise of {noise:.3g}" if noise else ""
    on = f"the {metric} of {found.best.value:.4g} of trial {found.best.number}"
    return f"stop.patience: {trials} not improved {on}{by}"


def _stopped(store: StudyStore) -> tuple[dict[int, float | None], set[int]]:
    """When the study's trials stopped, by number, and the numbers of those that are paused."""
    lease, trials = tables.leases.c, tables.optuna_trials.c
    query = (
        select(trials.number, lease.stopped_at, lease.status)
        .join_from(tables.leases, tables.optuna_trials, lease.trial_id == trials.trial_id)
        .where(lease.study_id == store.study_id, lease.status.in_(("done", "paused")))
    )
    with store.database.reading() as connection:
        found = connection.execute(query).all()
    return {n: at for n, at, _ in found}, {n for n, _, status in found if status == "paused"}
