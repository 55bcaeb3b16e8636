"""Snapshots of a running study, and an estimate of the time it still needs.

Reading a snapshot takes a handful of queries, however many trials have ended.
"""

import statistics
import threading
import time
from typing import NamedTuple

from optuna.trial import TrialState
from sqlalchemy import Connection, func, select

from tuner.errors import StorageError
from tuner.phases import UNCOUNTED, Phase, PhaseSeconds
from tuner.spec.budget import BudgetSection
from tuner.spec.pruners import AshaPruner
from tuner.study import rows, tables
from tuner.study.baselines import begun_baselines, epochs_left
from tuner.study.budget import Budget, Spent, read_budget
from tuner.study.connections import Address
from tuner.study.forecast import PAUSED, epochs_ahead, read_standings, state_column
from tuner.study.records import FINISHED, TrialRecord
from tuner.study.rungs import Ladder
from tuner.study.store import StudyStore
from tuner.study.workers import WorkerRecord

RECENT = 10  # epochs of a running trial over which its epoch time is averaged
MAX_AGE = 5.0  # seconds for which BackgroundPoller returns the same snapshot
MAX_WAIT = 1.0  # seconds for which BackgroundPoller waits for the database


class StudySnapshot(NamedTuple):
    """The state of a study at one moment; ``trials`` and ``epochs`` are those of the search."""

    total: int  # trials requested
    trials: dict[str, int]  # by state
    epochs: dict[str, int]  # reported so far, by the state of their trials
    # The next three, and epochs_ahead, are left empty by BackgroundPoller.
    running: dict[int, TrialRecord]  # by number; without paused ones
    workers: list[WorkerRecord]
    best: TrialRecord | None
    phase_seconds: PhaseSeconds = UNCOUNTED  # of all trials
    confirmed: int = 0  # runs that have ended, of those that confirm the winner
    on_hold: bool = False  # by tuner pause
    ended_reason: str | None = None  # why the search has ended before its total, if it has
    budget: Budget = Budget(BudgetSection(), Spent())
    epochs_ahead: int | None = None  # still to train with asha: see forecast

    @property
    def counts(self) -> dict[str, int]:
        """The number of paused trials and of those in each of Optuna's states, by the state's name
        in lower case."""
        states = [*(state.name for state in TrialState), PAUSED]
        return {state.lower(): self.trials.get(state, 0) for state in states}

    @property
    def finished(self) -> int:
        """The number of trials that count towards the total."""
        return sum(self.trials.get(state.name, 0) for state in FINISHED)

    @property
    def to_begin(self) -> int:
        """The number of trials still to begin: if the search has ended early, of queued ones."""
        counts = self.counts
        left = self.total - self.finished - counts["running"] - counts["paused"]
        return max(0, left if self.ended_reason is None else min(left, counts["waiting"]))

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen: no trial is left to run, or the budget is spent, and no
        worker is alive."""
        left = self.to_begin + self.counts["running"] + self.counts["paused"]
        over = self.finished >= self.total or not left or self.budget.reason is not None
        return over and not any(worker.alive for worker in self.workers)

    @property
    def left_behind(self) -> list[int]:
        """The running trials that no living worker owns."""
        owned = {worker.trial for worker in self.workers if worker.alive}
        return sorted(set(self.running) - owned)


class StudyPoller:
    """Reads snapshots of a study repeatedly, over the store's own connections.

    The best trial is looked up again only when another trial has completed.
    """

    def __init__(self, store: StudyStore) -> None:
        self._store = store
        self._complete: int | None = None  # trials, when the best was last looked up
        self._best: TrialRecord | None = None

    def snapshot(self) -> StudySnapshot:
        """Read a snapshot. StorageError if the database can't be read or the study is gone."""
        store = self._store
        with store.database.reading() as connection:
            counts = _with_forecast(connection, store, _counts(connection, store))
        running = {trial.number: trial for trial in store.running()}
        complete = counts.trials.get(TrialState.COMPLETE.name, 0)
        if complete != self._complete:
            self._best, self._complete = store.best_so_far(), complete
        return counts._replace(running=running, workers=store.workers(), best=self._best)


class BackgroundPoller:
    """Reads snapshots of a study for any thread, without keeping the caller waiting.

    It reads in its own thread, over a connection opened for each snapshot, because a database that
    does not answer may take long to fail.
    """

    def __init__(self, store: StudyStore) -> None:
        self._store = store
        self._address: Address = store.database.address
        self._lock = threading.Lock()
        self._reader: threading.Thread | None = None
        self._began = 0.0  # time.monotonic() of the last attempt
        self._snapshot: StudySnapshot | None = None

    def snapshot(self) -> StudySnapshot | None:
        """A snapshot at most ``MAX_AGE`` seconds old; None if the database does not answer."""
        with self._lock:
            reader = self._reader
            old = time.monotonic() - self._began >= MAX_AGE
            if reader is None or (old and not reader.is_alive()):
                self._began = time.monotonic()
                reader = self._reader = threading.Thread(target=self._read, daemon=True)
                reader.start()
        reader.join(timeout=MAX_WAIT)
        return None if reader.is_alive() else self._snapshot

    def _read(self) -> None:
        try:
            with self._address.connected() as connection:
                self._snapshot = _counts(connection, self._store)
        except StorageError:
            self._snapshot = None


def _counts(connection: Connection, store: StudyStore) -> StudySnapshot:
    """Read only the counts. KeyError if the study is gone."""
    # SQLite may have given the id of a deleted study to another one.
    ours = tables.studies.c
    query = select(ours.total, ours.on_hold_since, ours.ended_reason).where(store.key.row())
    study = connection.execute(query).one_or_none()
    if study is None:
        raise KeyError(f"study {store.name!r}")
    trials, lease, state = tables.optuna_trials.c, tables.leases.c, state_column()
    phases = [func.sum(lease[name]) for name in tables.PHASE_COLUMNS.values()]
    runs = select(func.count()).where(
        lease.study_id == store.study_id, lease.confirms.is_not(None), lease.status == "done"
    )
    by_state = (
        select(state, func.count(), func.coalesce(func.sum(lease.epoch), 0), *phases)
        .select_from(tables.optuna_trials)
        .outerjoin(tables.leases, lease.trial_id == trials.trial_id)
        .where(trials.study_id == store.study_id, lease.confirms.is_(None))
        .group_by(state)
    )
    found = connection.execute(by_state).all()
    counts = {s: count for s, count, *_ in found}
    epochs = {s: int(rows.finite(count) or 0) for s, _, count, *_ in found}
    sums = [rows.phase_seconds(values) for _, _, _, *values in found]
    seconds = {phase: sum(each[phase] for each in sums) for phase in Phase}
    confirmed: int = connection.execute(runs).scalar_one()
    return StudySnapshot(
        total=study.total,
        trials=counts,
        epochs=epochs,
        running={},
        workers=[],
        best=None,
        phase_seconds=seconds,
        confirmed=confirmed,
        on_hold=study.on_hold_since is not None,
        ended_reason=rows.text(study.ended_reason),
        budget=read_budget(connection, store.key),
    )


def _with_forecast(
    connection: Connection, store: StudyStore, found: StudySnapshot
) -> StudySnapshot:
    spec = store.spec
    if not isinstance(spec.pruner, AshaPruner):
        return found
    ladder = Ladder.of(spec, spec.pruner)
    standings = read_standings(connection, store.study_id, ladder)
    ahead = epochs_ahead(ladder, spec.study.epochs, standings, found.to_begin)
    baseline = epochs_left(begun_baselines(connection, store.study_id), spec.study.epochs)
    return found._replace(epochs_ahead=max(ahead, baseline))


def recent_seconds(trial: TrialRecord) -> float | None:
    """The mean duration of the trial's last epochs, evaluation included; None before the first."""
    recent = [report.seconds for report in trial.reports[-RECENT:]]
    return statistics.fmean(recent) if recent else None


def seconds_left(snapshot: StudySnapshot, epochs: int) -> float | None:
    """Estimate the seconds until a study of ``epochs`` per trial ends; None if there is no basis.

    The estimate uses the speed of the living workers' recent epochs; a worker that has not reported
    on its trial yet counts as the mean of the others. Running trials are assumed to reach their
    last epoch, and future trials to take as many epochs as finished ones did on average. A trial
    runs on one worker, so the longest time left of a running trial is a lower bound. With asha, the
    epochs to train are those of ``forecast``.
    """
    stopped, to_come, ahead = snapshot.finished, snapshot.to_begin, snapshot.epochs_ahead
    if not to_come and not snapshot.running and not ahead:
        return 0.0
    in_training = [
        snapshot.running[worker.trial]
        for worker in snapshot.workers
        if worker.alive and worker.trial in snapshot.running
    ]
    paces = [(trial, recent_seconds(trial)) for trial in in_training]
    timed = [(trial, seconds) for trial, seconds in paces if seconds]
    if not timed:
        return None
    rate = sum(1 / seconds for _, seconds in timed) / len(timed) * len(in_training)
    if ahead is not None:
        return ahead / rate
    left = sum(epochs - len(trial.reports) for trial in snapshot.running.values())
    usual: float = epochs
    if stopped:
        usual = sum(snapshot.epochs.get(state.name, 0) for state in FINISHED) / stopped
    total_left = left + to_come * usual
    return max(total_left / rate, *((epochs - len(t.reports)) * seconds for t, seconds in timed))
