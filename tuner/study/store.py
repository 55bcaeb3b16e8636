"""``StudyStore``: a study in its database. The only user of Optuna's study and storage.

One process at a time owns a study: a lock on a file beside the SQLite database says which. Under
the lock a trial that is still marked as running belonged to a process that died, so it is told
FAIL and its parameters are queued again.
"""

import contextlib
import fcntl
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import optuna
import pydantic
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import delete, insert, select, update

from tuner.errors import InputError, TunerError
from tuner.spec import StudySpec
from tuner.study import tables
from tuner.study.database import Database, storage_errors
from tuner.study.search import make_pruner, make_sampler
from tuner.study.space import distributions, trial_config
from tuner.study.verdict import Complete, Continue, Fail, Prune, Verdict
from tuner.trial import EpochReport, TrialConfig
from tuner.version import __version__

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
MOST_TRIES = (
    3  # of a point whose process dies each time, before it is taken to be the point's doing
)
REASON, ARTIFACT, MACHINE = "tuner:reason", "tuner:generator", "tuner:machine"
TRACEBACK = "tuner:traceback"
BASELINE, DEATHS = "tuner:baseline", "tuner:deaths"  # these go along when a point is queued again

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Claim(NamedTuple):
    """A trial that this process runs."""

    trial_id: int
    number: int
    params: dict[str, Any]
    config: TrialConfig


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


class StudySummary(NamedTuple):
    """One study among those in a database."""

    name: str
    total: int
    states: dict[str, int]
    best: float | None


class StudyStore:
    """One study, as Optuna and our tables hold it."""

    def __init__(self, database: Database, name: str) -> None:
        """InputError where the database has no such study."""
        self.database, self.name = database, name
        self._engine = database.rdb.engine
        names = database.study_names()
        if name not in names:
            known = ", ".join(sorted(names)) or "none"
            raise InputError(f"{database.path}: found no study {name!r}, expected one of: {known}")
        with storage_errors(database.path):
            self._study = optuna.load_study(storage=database.rdb, study_name=name)
            with self._engine.connect() as connection:
                ours = tables.studies.c
                row = connection.execute(
                    select(ours.spec, ours.total, ours.token, ours.tuner_version).where(
                        ours.study_id == self._study._study_id
                    )
                ).one()
        try:
            self.spec = StudySpec.model_validate_json(row.spec)
        except pydantic.ValidationError:
            raise InputError(
                f"study {name!r}: found a study file of tuner {row.tuner_version} in "
                f"{database.path}, which tuner {__version__} can't read"
            ) from None
        self.total: int = row.total
        # Studies of one name in several databases may share a folder for artifacts.
        self.folder = f"{name}-{row.token[:8]}"

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """Hold the study's lock; TunerError where another process holds it."""
        path = self.database.path
        lock_path = path.with_name(f".{path.name}.{self.name}.lock")
        with storage_errors(lock_path):
            lock = lock_path.open("w")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TunerError(
                    f"study {self.name!r}: another process on this machine is running it"
                ) from None
            self._study.sampler = make_sampler(self.spec)
            self._study.pruner = make_pruner(self.spec)
            self._bury_the_dead()
            yield

    def _bury_the_dead(self) -> None:
        with storage_errors(self.database.path):
            running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for trial in running:
            deaths = trial.user_attrs.get(DEATHS, 0) + 1
            with storage_errors(self.database.path):
                self._storage.set_trial_user_attr(trial._trial_id, DEATHS, deaths)
            reason = "its process died" + (f", in each of {deaths} tries" if deaths > 1 else "")
            self._end(trial._trial_id, Fail(reason, requeue=deaths < MOST_TRIES))

    def raise_total(self, trials: int) -> None:
        """Ask for ``trials`` trials in all; fewer than were asked for before changes nothing."""
        if trials > self.total:
            with storage_errors(self.database.path), self._engine.begin() as connection:
                connection.execute(
                    update(tables.studies)
                    .where(tables.studies.c.study_id == self._study._study_id)
                    .values(total=trials)
                )
            self.total = trials

    def remaining(self) -> int:
        """Trials still to finish. Failed ones do not count towards the total."""
        with storage_errors(self.database.path):
            return self.total - len(self._study.get_trials(deepcopy=False, states=FINISHED))

    def bind(self, what: str, value: str) -> None:
        """Tie the study to ``what`` its numbers depend on; InputError where that is another now."""
        key = f"tuner:{what}"
        with storage_errors(self.database.path):
            known = self._study.user_attrs.get(key)
            if known is None:
                self._study.set_user_attr(key, value)
        if known not in (None, value):
            raise InputError(
                f"study {self.name!r}: found {what} {value}, expected {known}, with which its "
                "trials were measured: their numbers could not be compared"
            )

    def claim(self, image_shape: tuple[int, int, int], machine: dict[str, str]) -> Claim | None:
        """The next trial, from the queue or from the sampler; None once the total is reached.

        Only the study's owner may call this, ``report`` and ``finish``, one trial at a time.
        """
        with storage_errors(self.database.path):
            started = (*FINISHED, TrialState.RUNNING)
            if len(self._study.get_trials(deepcopy=False, states=started)) >= self.total:
                return None
            trial = self._study.ask(fixed_distributions=distributions(self.spec))
            for part, description in machine.items():
                trial.set_user_attr(f"{MACHINE}:{part}", description)
            with self._engine.begin() as connection:  # SQLite reuses ids: see create_study
                ours = tables.epochs
                connection.execute(delete(ours).where(ours.c.trial_id == trial._trial_id))
        config = trial_config(self.spec, trial.params, trial.number, image_shape)
        return Claim(trial._trial_id, trial.number, trial.params, config)

    def report(self, claim: Claim, report: EpochReport) -> bool:
        """Store an epoch's report; whether the pruner would stop the trial here.

        Optuna is given the best FID so far, or the last, as the study says; never a NaN. An epoch
        without a FID goes into our table alone.
        """
        with storage_errors(self.database.path):
            with self._engine.begin() as connection:
                row = report._asdict() | {
                    "trial_id": claim.trial_id,
                    "reported_at": tables.db_now(),
                }
                connection.execute(insert(tables.epochs).values(row))
            if report.fid is None:
                return False
            trial = self._storage.get_trial(claim.trial_id)
            value = report.fid
            if self.spec.study.value == "best":
                value = min([value, *trial.intermediate_values.values()])
            self._storage.set_trial_intermediate_value(claim.trial_id, report.epoch, value)
            # Not Trial.should_prune: it would not see what the storage was told directly.
            return self._study.pruner.prune(self._study, self._storage.get_trial(claim.trial_id))

    def finish(self, claim: Claim, verdict: Verdict, artifact: str | None = None) -> None:
        """Tell Optuna how the trial ended and why."""
        if artifact:
            with storage_errors(self.database.path):
                self._storage.set_trial_user_attr(claim.trial_id, ARTIFACT, artifact)
        self._end(claim.trial_id, verdict)

    def keep_traceback(self, claim: Claim, text: str) -> None:
        """Put where an exception came from on the trial, for whoever mends it."""
        with storage_errors(self.database.path):
            self._storage.set_trial_user_attr(claim.trial_id, TRACEBACK, text)

    def _end(self, trial_id: int, verdict: Verdict) -> None:
        assert not isinstance(verdict, Continue)
        with storage_errors(self.database.path):
            # Attributes first: Optuna refuses them once a trial has ended.
            self._storage.set_trial_user_attr(trial_id, REASON, verdict.reason)
            trial = self._storage.get_trial(trial_id)
            match verdict:
                case Complete() if trial.last_step is not None:
                    self._study.tell(trial.number, trial.intermediate_values[trial.last_step])
                case Complete() | Prune():
                    self._study.tell(trial.number, state=TrialState.PRUNED)
                case Fail():
                    if verdict.requeue:  # first: a point tried twice is better than one lost
                        self._requeue(trial)
                    self._study.tell(trial.number, state=TrialState.FAIL)

    def _requeue(self, trial: FrozenTrial) -> None:
        """Try a trial's point again. One that died before it was given any loses nothing."""
        point = trial.system_attrs.get("fixed_params", {}) | trial.params
        if point:
            kept = {k: v for k, v in trial.user_attrs.items() if k in (BASELINE, DEATHS)}
            self._study.enqueue_trial(point, user_attrs=kept)

    @property
    def _storage(self) -> Any:
        return self._study._storage

    def summary(self) -> StudySummary:
        states: dict[str, int] = {}
        finished = []
        with storage_errors(self.database.path):
            trials = self._study.get_trials(deepcopy=False)
        for trial in trials:
            states[trial.state.name] = states.get(trial.state.name, 0) + 1
            if trial.state == TrialState.COMPLETE and trial.value is not None:
                finished.append(trial.value)
        return StudySummary(self.name, self.total, states, min(finished, default=None))

    def trials(self) -> list[TrialRecord]:
        """Every trial that has begun, by number, with its epochs."""
        with storage_errors(self.database.path):
            trials = self._study.get_trials(deepcopy=False)
            reports = self._reports()
        begun = [trial for trial in trials if trial.state != TrialState.WAITING]
        return [_record(trial, reports.get(trial._trial_id, [])) for trial in begun]

    def _reports(self) -> dict[int, list[EpochReport]]:
        ours = tables.epochs.c
        columns = [ours[name] for name in EpochReport._fields]
        theirs = tables.optuna_trials.c
        query = (
            select(ours.trial_id, *columns)
            .join(tables.optuna_trials, theirs.trial_id == ours.trial_id)
            .where(theirs.study_id == self._study._study_id)
            .order_by(ours.trial_id, ours.epoch)
        )
        reports: dict[int, list[EpochReport]] = {}
        with self._engine.connect() as connection:
            for trial_id, *values in connection.execute(query):
                reports.setdefault(trial_id, []).append(EpochReport(*values))
        return reports

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


def _record(trial: FrozenTrial, reports: Sequence[EpochReport]) -> TrialRecord:
    attributes = trial.user_attrs
    prefix = f"{MACHINE}:"
    return TrialRecord(
        number=trial.number,
        state=trial.state.name,
        params=trial.params,
        value=trial.value,
        reports=tuple(reports),
        reason=attributes.get(REASON),
        artifact=attributes.get(ARTIFACT),
        machine={k.removeprefix(prefix): v for k, v in attributes.items() if k.startswith(prefix)},
    )
