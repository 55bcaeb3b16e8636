"""A study at this moment, read cheaply enough for every other second, however many trials it has;
and how long it still takes."""

from typing import Any, NamedTuple

from optuna.trial import TrialState
from sqlalchemy import Connection, func, select

from tuner.study import tables
from tuner.study.store import FINISHED, StudyStore, TrialRecord, WorkerRecord, best_of, record_of
from tuner.trial import EpochReport

RECENT = 10  # epochs of a running trial, whose mean duration is its pace


class Latest(NamedTuple):
    """A running trial, as last reported. All but ``epoch`` is unknown before its first epoch."""

    epoch: int = 0  # the last one reported
    value: float | None = None  # the objective's newest
    loss_ratio: float | None = None
    images_per_second: float | None = None
    seconds: float | None = None  # an epoch takes, with its evaluation: the mean of the recent ones


class Present(NamedTuple):
    """All that is shown of a study while it runs."""

    total: int  # trials asked for
    trials: dict[str, int]  # by their state
    epochs: dict[str, int]  # reported so far, by the state of their trials
    running: dict[int, Latest]  # by the trial's number
    workers: list[WorkerRecord]
    best: TrialRecord | None  # without its epochs

    @property
    def finished(self) -> int:
        """Trials that count towards the total."""
        return sum(self.trials.get(state.name, 0) for state in FINISHED)

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to see: no trial to come and no worker alive."""
        return self.finished >= self.total and not any(worker.alive for worker in self.workers)

    @property
    def left_behind(self) -> list[int]:
        """The running trials that no living worker has."""
        held = {worker.trial for worker in self.workers if worker.alive}
        return sorted(set(self.running) - held)


class Observer:
    """Looks at a study again and again. Only what can have changed is read anew: of trials that
    ended, their counts; of those that run, their last epochs; the best, when one was completed."""

    def __init__(self, store: StudyStore) -> None:
        self._store = store
        self._complete: int | None = None  # trials, when the best was last looked for
        self._best: TrialRecord | None = None

    def look(self) -> Present:
        """StorageError where the database can't be read, or the study is gone from it."""
        store = self._store
        with store.database.errors(), store.database.rdb.engine.connect() as connection:
            total = _total(connection, store)
            trials, epochs = _counts(connection, store.study_id)
            running = _running(connection, store.study_id, store.spec.metrics.objective)
        workers = store.workers()
        best = self._best_of(trials.get(TrialState.COMPLETE.name, 0))
        return Present(total, trials, epochs, running, workers, best)

    def _best_of(self, complete: int) -> TrialRecord | None:
        if complete != self._complete:
            with self._store.database.errors():  # Optuna keeps what it has read of ended trials
                trials = self._store.study.get_trials(False, (TrialState.COMPLETE,))
            self._best = best_of([record_of(trial, ()) for trial in trials])
            self._complete = complete
        return self._best


def _total(connection: Connection, store: StudyStore) -> int:
    """KeyError where the study is gone; SQLite may have given its id to another one since."""
    ours = tables.studies.c
    query = select(ours.total).where(ours.study_id == store.study_id, ours.token == store.token)
    total: int | None = connection.execute(query).scalar_one_or_none()
    if total is None:
        raise KeyError(f"study {store.name!r}")
    return total


def _counts(connection: Connection, study_id: int) -> tuple[dict[str, int], dict[str, int]]:
    """Trials, and the epochs that they reported, by the trials' state."""
    trials, lease = tables.optuna_trials.c, tables.leases.c
    query = (
        select(trials.state, func.count(), func.coalesce(func.sum(lease.epoch), 0))
        .select_from(tables.optuna_trials)
        .outerjoin(tables.leases, lease.trial_id == trials.trial_id)
        .where(trials.study_id == study_id)
        .group_by(trials.state)
    )
    rows = connection.execute(query).all()
    return {s.name: count for s, count, _ in rows}, {s.name: int(epochs) for s, _, epochs in rows}


def _running(connection: Connection, study_id: int, objective: str) -> dict[int, Latest]:
    trials, epochs = tables.optuna_trials.c, tables.epochs.c
    others = tables.epochs.alias()
    theirs = others.c.trial_id == trials.trial_id
    last = select(func.max(others.c.epoch)).where(theirs).scalar_subquery()
    measured = others.c[objective]
    newest = select(measured).where(theirs, measured.is_not(None))
    value = newest.order_by(others.c.epoch.desc()).limit(1).scalar_subquery()
    recent = (epochs.trial_id == trials.trial_id) & (epochs.epoch > last - RECENT)
    query = (
        select(trials.number, value, *(epochs[name] for name in EpochReport._fields))
        .select_from(tables.optuna_trials)
        .outerjoin(tables.epochs, recent)
        .where(trials.study_id == study_id, trials.state == TrialState.RUNNING)
        .order_by(trials.number, epochs.epoch)
    )
    found: dict[int, list[Any]] = {}
    for number, *row in connection.execute(query):
        found.setdefault(number, []).append(row)
    return {number: _latest(rows) for number, rows in found.items()}


def _latest(rows: list[Any]) -> Latest:
    """From the newest value, and the epoch's report, of each recent epoch."""
    reports = [EpochReport(*report) for _, *report in rows if report[0] is not None]
    if not reports:
        return Latest()
    seconds = sum(report.train_seconds + report.evaluate_seconds for report in reports)
    last, value = reports[-1], rows[-1][0]
    speed = last.images_per_second if last.train_seconds else None
    return Latest(last.epoch, value, last.loss_ratio, speed, seconds / len(reports))


def seconds_left(present: Present, epochs: int) -> float | None:
    """How long a study of ``epochs`` a trial still takes at the present rate: an estimate; None
    while nothing tells the rate.

    The rate is that of the living workers' recent epochs, where one that has not reported of its
    trial yet counts as the mean of the others. The running trials are taken to go on to their last
    epoch, and those to come for as many epochs as the ones that ended did on average. No trial is
    shared, so it takes no less than the running trial that has the most to do.
    """
    to_come = max(0, present.total - present.finished - len(present.running))
    if not to_come and not present.running:
        return 0.0
    at_work = [
        present.running[worker.trial]
        for worker in present.workers
        if worker.alive and worker.trial in present.running
    ]
    known = [(trial, trial.seconds) for trial in at_work if trial.seconds]
    if not known:
        return None
    rate = sum(1 / seconds for _, seconds in known) / len(known) * len(at_work)
    left = sum(epochs - trial.epoch for trial in present.running.values())
    left_in_all = left + to_come * _usual_epochs(present, epochs)
    return max(left_in_all / rate, *((epochs - t.epoch) * seconds for t, seconds in known))


def _usual_epochs(present: Present, epochs: int) -> float:
    """That a trial of the study has taken on average; ``epochs`` before any has ended."""
    if not present.finished:
        return epochs
    return sum(present.epochs.get(state.name, 0) for state in FINISHED) / present.finished
