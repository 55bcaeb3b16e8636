"""A study's queue and total: which trial begins next, and whether one may begin."""

from datetime import UTC, datetime

from optuna.trial import TrialState
from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from tuner.study import tables
from tuner.study.tables import StudyKey

COUNTED = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)  # towards a study's total


def utc_now() -> datetime:
    """The current time as Optuna stores it."""
    return datetime.now(UTC).replace(tzinfo=None)


def has_room(session: Session, study: StudyKey) -> bool:
    """Whether another trial may begin: the total is not reached yet, and unless a trial is queued
    the search has not ended early. Locks the study. KeyError if the study is gone."""
    trials = tables.optuna_trials.c
    counted = (trials.study_id == study.study_id) & trials.state.in_(COUNTED) & tables.is_search()
    total, ended_reason = study.lock(session, tables.studies.c.ended_reason)
    if ended_reason is not None and not session.execute(queued(study.study_id, 1)).first():
        return False
    found = session.execute(select(func.count()).where(counted)).scalar_one()
    return bool(found < total)


def queued(study_id: int, limit: int) -> Select[int]:
    """The ids of the first trials of the queue, at most ``limit``."""
    trials = tables.optuna_trials.c
    waiting = (trials.study_id == study_id) & (trials.state == TrialState.WAITING)
    return select(trials.trial_id).where(waiting).order_by(trials.number).limit(limit)


def start_queued(session: Session, study_id: int) -> int | None:
    """Set the first trial of the queue to RUNNING; returns its id, None if none is queued."""
    # Not through Optuna's model, which fails if another column of the trial is unreadable.
    trials = tables.optuna_trials
    first = queued(study_id, 1).with_for_update(key_share=True, skip_locked=True)
    trial_id: int | None = session.execute(first).scalar_one_or_none()
    if trial_id is not None:
        begun = update(trials).where(trials.c.trial_id == trial_id)
        times = {"datetime_start": utc_now(), "datetime_complete": None}
        session.execute(begun.values(state=TrialState.RUNNING, **times))
    return trial_id
