"""``StudyStore``: a study in its database, as it is read and steered. The only user of Optuna's
study, beside ``Membership``, which runs its trials."""

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import optuna
import pydantic
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Select, func, select, update

from tuner.conditions import plain_params
from tuner.errors import InputError
from tuner.spec import StudySpec
from tuner.study import tables
from tuner.study.database import Database
from tuner.study.fingerprint import Parts, digest, disagreements
from tuner.study.processes import Process, has_died
from tuner.trial import EpochReport
from tuner.version import __version__

LOST_SHOWN = 3600.0  # seconds
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
REASON, ARTIFACT, MACHINE = "tuner:reason", "tuner:generator", "tuner:machine"
TRACEBACK, BASELINE = "tuner:traceback", "tuner:baseline"
SEED_OF = "tuner:seed_of"  # the trial whose random numbers are drawn again

optuna.logging.set_verbosity(optuna.logging.WARNING)
# It tells of SQL that failed; that the database is away is said by those who try again.
optuna.logging.get_logger("optuna.storages._rdb.storage").setLevel(optuna.logging.ERROR)


class TrialRecord(NamedTuple):
    """A trial as the study remembers it. ``value`` is what Optuna compares: None without a FID."""

    number: int
    state: str  # RUNNING, COMPLETE, PRUNED, FAIL
    params: dict[str, Any]
    value: float | None
    reports: tuple[EpochReport, ...]
    reason: str | None
    artifact: str | None
    machine: dict[str, str]
    seed_of: int | None = None  # the trial whose random numbers it draws again, if it does

    def best_epoch(self, objective: str) -> int | None:
        """The epoch whose number is the trial's value; None where it has none."""
        found = [r.epoch for r in self.reports if r.value(objective) == self.value is not None]
        return found[0] if found else None


class WorkerRecord(NamedTuple):
    """A worker of the study. Times are in seconds before now, by the database's clock."""

    worker: str
    host: str
    pid: int
    device: str
    alive: bool
    seen: float
    trial: int | None
    epoch: int | None  # the last one it reported of that trial


class StudySummary(NamedTuple):
    """One study among those in a database."""

    name: str
    total: int
    states: dict[str, int]
    best: float | None
    objective: str  # what ``best`` is, in words
    fingerprint: str | None  # what it was measured with; None before anything is


class StudyStore:
    """One study, as Optuna and our tables hold it."""

    def __init__(self, database: Database, name: str) -> None:
        """InputError where the database has no such study."""
        self.database, self.name = database, name
        names = database.study_names()
        if name not in names:
            known = ", ".join(sorted(names)) or "none"
            raise InputError(f"{database.place}: found no study {name!r}, expected one of: {known}")
        with database.errors():
            self.study = optuna.load_study(storage=database.rdb, study_name=name)
            self.study_id = self.study._study_id
            row = self._ours()
        self._stored_spec: str = row.spec
        self._version: str = row.tuner_version
        self.total: int = row.total
        self.token: str = row.token
        self.artifacts: str | None = row.artifacts
        # Studies of one name in several databases may share a folder for artifacts.
        self.folder = f"{name}-{row.token[:8]}"

    @cached_property
    def spec(self) -> StudySpec:
        """The study file; InputError where it is another tuner's and can't be read."""
        try:
            return StudySpec.model_validate_json(self._stored_spec)
        except pydantic.ValidationError:
            raise InputError(
                f"study {self.name!r}: found a study file of tuner {self._version} in "
                f"{self.database.place}, which tuner {__version__} can't read"
            ) from None

    def check_version(self) -> None:
        """InputError where the study's numbers are another tuner's: of another minor version."""
        if self._version.split(".")[:2] != __version__.split(".")[:2]:
            raise InputError(
                f"study {self.name!r}: found a study of tuner {self._version} in "
                f"{self.database.place}, but this is {__version__}: its numbers could not be "
                "compared"
            )

    def _ours(self) -> Any:
        query = select(tables.studies).where(tables.studies.c.study_id == self.study_id)
        with self.database.rdb.engine.connect() as connection:
            return connection.execute(query).one()

    def _set(self, **values: Any) -> None:
        ours = tables.studies
        with self.database.errors(), self.database.rdb.engine.begin() as connection:
            connection.execute(update(ours).where(ours.c.study_id == self.study_id).values(values))

    def raise_total(self, trials: int) -> None:
        """Ask for ``trials`` trials in all; fewer than were asked for before changes nothing."""
        ours = tables.studies.c
        with self.database.errors(), self.database.rdb.engine.begin() as connection:
            connection.execute(
                update(tables.studies)
                .where(ours.study_id == self.study_id, ours.total < trials)
                .values(total=trials)
            )
        with self.database.errors():
            self.total = self._ours().total

    def keep_artifacts_at(self, url: str) -> None:
        """Note where the study's files are, for workers that join, unless it is known already."""
        ours = tables.studies
        unknown = (ours.c.study_id == self.study_id) & ours.c.artifacts.is_(None)
        with self.database.errors():
            with self.database.rdb.engine.begin() as connection:
                connection.execute(update(ours).where(unknown).values(artifacts=url))
            self.artifacts = self._ours().artifacts

    def request_stop(self) -> None:
        """Tell all workers that have joined so far to leave after their epoch."""
        self._set(stop_at=tables.db_now())

    def remaining(self) -> int:
        """Trials still to finish. Failed ones do not count towards the total."""
        trials = tables.optuna_trials.c
        done = select(func.count()).where(
            trials.study_id == self.study_id, trials.state.in_(FINISHED)
        )
        with self.database.errors(), self.database.rdb.engine.connect() as connection:
            finished: int = connection.execute(done).scalar_one()
            total: int = connection.execute(
                select(tables.studies.c.total).where(tables.studies.c.study_id == self.study_id)
            ).scalar_one()
        self.total = total
        return total - finished

    def ended(self) -> set[int]:
        """The numbers of all trials that have ended, however they did."""
        trials = tables.optuna_trials.c
        query = select(trials.number).where(
            trials.study_id == self.study_id, trials.state.in_((*FINISHED, TrialState.FAIL))
        )
        with self.database.errors(), self.database.rdb.engine.connect() as connection:
            return set(connection.execute(query).scalars())

    def fingerprint(self) -> Parts:
        """What the study's numbers depend on; empty before the first worker is ready to measure."""
        with self.database.errors():
            found: Parts = json.loads(self._ours().fingerprint or "{}")
        return found

    def check_fingerprint(self, parts: Parts) -> None:
        """InputError, naming them, where some of the ``parts`` are not what the study's are."""
        problems = disagreements(parts, self.fingerprint())
        if problems:
            raise InputError(
                f"study {self.name!r}: {'; '.join(problems)}, with which its trials were measured: "
                "their numbers could not be compared"
            )

    def bind(self, parts: Parts) -> None:
        """Tie the study to all that its numbers depend on; InputError where that is another now."""
        ours = tables.studies
        if not self.fingerprint():  # who only reads may not write
            unknown = (ours.c.study_id == self.study_id) & ours.c.fingerprint.is_(None)
            row = update(ours).where(unknown).values(fingerprint=json.dumps(parts))
            with self.database.errors(), self.database.rdb.engine.begin() as connection:
                connection.execute(row)
        self.check_fingerprint(parts)

    def summary(self) -> StudySummary:
        states: dict[str, int] = {}
        finished = []
        with self.database.errors():
            trials = self.study.get_trials(deepcopy=False)
        for trial in trials:
            states[trial.state.name] = states.get(trial.state.name, 0) + 1
            if trial.state == TrialState.COMPLETE and trial.value is not None:
                finished.append(trial.value)
        best, parts = min(finished, default=None), self.fingerprint()
        fingerprint = digest(parts) if parts else None
        with self.database.errors():
            objective = (self.study.metric_names or ["FID"])[0]
        return StudySummary(self.name, self.total, states, best, objective, fingerprint)

    def trials(self) -> list[TrialRecord]:
        """Every trial that has begun, by number, with its epochs."""
        with self.database.errors():
            trials = self.study.get_trials(deepcopy=False)
            reports = self._reports()
        begun = [trial for trial in trials if trial.state != TrialState.WAITING]
        return [record_of(trial, reports.get(trial._trial_id, [])) for trial in begun]

    def reports_of(self, trial_id: int) -> list[EpochReport]:
        """A trial's epochs so far, in order."""
        query = _epochs().where(tables.epochs.c.trial_id == trial_id)
        with self.database.errors(), self.database.rdb.engine.connect() as connection:
            return [EpochReport(*values) for _, *values in connection.execute(query)]

    def _reports(self) -> dict[int, list[EpochReport]]:
        theirs = tables.optuna_trials.c
        query = (
            _epochs()
            .join(tables.optuna_trials, theirs.trial_id == tables.epochs.c.trial_id)
            .where(theirs.study_id == self.study_id)
        )
        reports: dict[int, list[EpochReport]] = {}
        with self.database.rdb.engine.connect() as connection:
            for trial_id, *values in connection.execute(query):
                reports.setdefault(trial_id, []).append(EpochReport(*values))
        return reports

    def workers(self) -> list[WorkerRecord]:
        """Every worker that joined and has not left, by when it joined; lost ones for an hour, or
        while their trial waits for another. One whose process has died on this machine is known to
        be lost at once."""
        who, lease, trials = tables.workers.c, tables.leases.c, tables.optuna_trials.c
        holds = (lease.worker == who.worker) & (lease.status == "held")
        silent = tables.db_now() - who.seen_at
        process = (who.host, who.place, who.pid, who.pid_since)
        query = (
            select(who.worker, who.device, silent, trials.number, lease.epoch, *process)
            .select_from(tables.workers)
            .outerjoin(tables.leases, holds)
            .outerjoin(tables.optuna_trials, trials.trial_id == lease.trial_id)
            .where(who.study_id == self.study_id, who.left_at.is_(None))
            .order_by(who.joined_at, trials.number)
        )
        with self.database.errors(), self.database.rdb.engine.connect() as connection:
            rows = connection.execute(query).all()
        limit = self.spec.study.lease_seconds
        found = []
        for worker, device, seen, trial, epoch, *identity in rows:
            if seen < LOST_SHOWN or trial is not None:
                its = Process(*identity)
                alive = seen < limit and not has_died(its)
                found.append(
                    WorkerRecord(worker, its.host, its.pid, device, alive, seen, trial, epoch)
                )
        return found

    def best(self) -> TrialRecord:
        """The complete trial with the lowest value; InputError where there is none."""
        found = best_of(self.trials())
        if found is None:
            raise InputError(f"study {self.name!r}: found no complete trial yet")
        return found

    def trial(self, number: int) -> TrialRecord:
        """The trial ``number``; InputError where there is none."""
        trials = {trial.number: trial for trial in self.trials()}
        if number not in trials:
            known = f"0 to {max(trials)}" if trials else "one that has begun; none has"
            raise InputError(f"study {self.name!r}: found no trial {number}, expected {known}")
        return trials[number]


def best_of(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """The complete trial with the lowest value, if there is one."""
    complete = [t for t in trials if t.state == "COMPLETE" and t.value is not None]
    return min(complete, key=lambda trial: (trial.value, trial.number), default=None)


def _epochs() -> Select[Any]:
    ours = tables.epochs.c
    columns = [ours[name] for name in EpochReport._fields]
    return select(ours.trial_id, *columns).order_by(ours.trial_id, ours.epoch)


def record_of(trial: FrozenTrial, reports: Sequence[EpochReport]) -> TrialRecord:
    """Optuna's trial with its epochs."""
    attributes = trial.user_attrs
    return TrialRecord(
        number=trial.number,
        state=trial.state.name,
        params=plain_params(trial.params),
        value=trial.value,
        reports=tuple(reports),
        reason=attributes.get(REASON),
        artifact=attributes.get(ARTIFACT),
        machine=attributes.get(MACHINE, {}),
        seed_of=attributes.get(SEED_OF),
    )
