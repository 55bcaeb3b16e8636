"""How one trial came about: who trained which epochs of it and when, and what it failed of."""

from typing import NamedTuple

from sqlalchemy import func, select

from tuner.study import tables
from tuner.study.store import TRACEBACK, StudyStore


class Stint(NamedTuple):
    """The epochs of a trial that one worker reported under one lease. Times are in seconds since
    1970, by the database's clock."""

    host: str | None  # None where the database no longer knows the worker
    device: str | None
    worker: str | None
    first_epoch: int
    last_epoch: int
    first_reported_at: float
    last_reported_at: float


def stints(store: StudyStore, number: int) -> list[Stint]:
    """The trial's, in the order of its epochs: more than one where it was taken over."""
    epochs, who, trials = tables.epochs.c, tables.workers.c, tables.optuna_trials.c
    query = (
        select(
            *(who.host, who.device, epochs.worker),
            *(func.min(epochs.epoch), func.max(epochs.epoch)),
            *(func.min(epochs.reported_at), func.max(epochs.reported_at)),
        )
        .select_from(tables.epochs)
        .join(tables.optuna_trials, trials.trial_id == epochs.trial_id)
        .outerjoin(tables.workers, who.worker == epochs.worker)
        .where(trials.study_id == store.study_id, trials.number == number)
        .group_by(who.host, who.device, epochs.worker, epochs.token)
        .order_by(func.min(epochs.epoch))
    )
    with store.database.errors(), store.database.rdb.engine.connect() as connection:
        return [Stint(*row) for row in connection.execute(query)]


def traceback_of(store: StudyStore, number: int) -> str | None:
    """Where in the code the trial failed; None where it did not."""
    with store.database.errors():
        trials = store.study.get_trials(deepcopy=False)
    [found] = [trial.user_attrs.get(TRACEBACK) for trial in trials if trial.number == number]
    return found
