"""``Membership``: a worker's part in a study. Claims trials, reports on them, ends them.

A trial that is RUNNING has a lease. ``claim`` takes over what others gave back or left behind
before it asks the sampler for more; the trial stays itself, with its number and its reports. All
of it may be repeated after a failure of the database whose outcome is not known: a lease found in
our name is gone on with, a report found delivered is not delivered again, and so on.
"""

import contextlib
import enum
import functools
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import insert, or_, select, update

from tuner.conditions import plain_params
from tuner.errors import LeaseLostError, StorageError
from tuner.study import leases, tables
from tuner.study.board import add_note
from tuner.study.heartbeat import Heartbeat
from tuner.study.leases import Taken
from tuner.study.patience import LIMIT, Patience
from tuner.study.processes import this_process
from tuner.study.search import make_pruner, make_sampler
from tuner.study.space import distributions, trial_config
from tuner.study.storage import Choice, Lease
from tuner.study.store import ARTIFACT, MACHINE, REASON, SEED_OF, TRACEBACK, StudyStore
from tuner.study.verdict import Complete, Continue, Fail, Verdict
from tuner.trial import EpochReport, Premises, TrialConfig
from tuner.version import __version__

T = TypeVar("T")
NOTHING: Mapping[str, Any] = {}


class Claim(NamedTuple):
    """A trial that this worker owns, and what was reported of it so far."""

    trial_id: int
    number: int
    params: dict[str, Any]
    config: TrialConfig
    token: int = 1  # of its lease
    history: tuple[EpochReport, ...] = ()


class Idle(enum.Enum):
    """Why there is no trial to claim."""

    WAIT = "other workers run the last trials, and may leave some behind"
    ENDED = "the study has all of its trials"


class Vitals(NamedTuple):
    """How a worker has got on with the database so far, for those who watch it."""

    retries: int  # of what failed for a passing reason
    renewals: dict[str, int]  # of leases, by what came of them: see Heartbeat
    last_beat: float | None  # the last sign of life that the database took, by this machine's clock


class Membership:
    """One worker in one study, from joining to leaving. For one thread: see FencedStorage."""

    def __init__(
        self,
        store: StudyStore,
        machine: dict[str, str],
        announce: Callable[[str], None],
        patience: float = LIMIT,
    ) -> None:
        """``machine`` describes what makes the numbers; ``patience`` is in seconds. InputError
        for a study of another tuner's."""
        store.check_version()
        self.store, self.spec = store, store.spec
        self.worker = uuid.uuid4().hex[:12]
        self.machine, self._database = machine, store.database
        self._storage, self._study = store.database.rdb, store.study
        self._study.sampler, self._study.pruner = make_sampler(self.spec), make_pruner(self.spec)
        self._patience = Patience(announce, patience)
        self._seconds = self.spec.study.lease_seconds
        self._marks: dict[str, Any] = {}  # what the pruner noted on a trial that is to end
        self._heart = Heartbeat(
            self._database.address,
            store.study_id,
            self.worker,
            self._storage.held,
            self._seconds,
        )

    def __enter__(self) -> Self:
        self._persist(self._register)
        self._storage.asker = Lease(self.worker, 1, self._seconds)
        self._heart.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave; what is still owned is given back if the database can be reached."""
        self.leave_at_once()
        self._heart.stop()
        self._storage.held.clear()
        self._storage.asker = None

    def _register(self) -> None:
        with self._storage.transaction() as session:
            process, who = this_process(), tables.workers
            if session.execute(select(who).where(who.c.worker == self.worker)).first():
                return  # the answer to an earlier attempt was lost
            session.execute(
                insert(who).values(
                    worker=self.worker,
                    study_id=self.store.study_id,
                    host=process.host,
                    place=process.place,
                    pid=process.pid,
                    pid_since=process.since,
                    device=self.machine.get("device", ""),
                    tuner_version=__version__,
                    joined_at=tables.db_now(),
                    seen_at=tables.db_now(),
                )
            )

    @property
    def stop_requested(self) -> bool:
        """Whether a person told the study's workers to leave."""
        return self._heart.stop_requested

    def vitals(self) -> Vitals:
        """From any thread."""
        heart = self._heart
        return Vitals(self._patience.retries, dict(heart.renewals), heart.last_beat)

    def leave_at_once(self) -> None:
        """Give back what is owned, in one attempt; from any thread."""
        with contextlib.suppress(StorageError):
            self._heart.give_back_all()

    def _persist(self, attempt: Callable[[], T]) -> T:
        """Repeat while the database is away. Failures come out as StorageError."""

        def once() -> T:
            with self._database.errors():
                return attempt()

        return self._patience(once)

    # Claiming

    def claim(self, premises: Premises) -> Claim | Idle:
        """A trial to run: one that was left behind, else the next of the queue or the sampler."""
        while True:
            self._storage.held.clear()
            self._marks = {}
            with contextlib.suppress(LeaseLostError):  # it stood still on the way: the next, then
                taken = self._persist(self._next)
                if isinstance(taken, Idle):
                    return taken
                claim = self._persist(functools.partial(self._claim, taken, premises))
                if claim is not None and taken.takeovers <= self.spec.study.max_takeovers:
                    return claim
                if claim is not None:
                    self._give_up(claim, taken.takeovers)

    def _give_up(self, claim: Claim, takeovers: int) -> None:
        text = f"lost its worker {takeovers} times without getting an epoch further"
        self.finish(claim, Fail(text))

    def _next(self) -> Taken | Idle:
        study_id, held = self.store.study_id, self._storage.held
        with self._storage.transaction() as session:
            taken = leases.held_unknown(session, study_id, self.worker, held)
            if taken is None:
                lease = Lease(self.worker, 0, self._seconds)
                dead = leases.dead_workers(session, study_id, self.worker)
                taken = leases.take(session, study_id, lease, dead, expired=self._may_judge())
        if taken is not None:
            held[taken.trial_id] = Lease(self.worker, taken.token, self._seconds)
            return taken
        trial_id = self._storage.begin_trial(study_id)
        return self._idle() if trial_id is None else Taken(trial_id, 1, 0, 0)

    def _may_judge(self) -> bool:
        """Whether a lease that ran out tells of a lost worker: not right after the database was
        away, when no worker could renew its own."""
        troubles = (self._patience.last_trouble, self._heart.last_trouble)
        known = [time.monotonic() - moment for moment in troubles if moment is not None]
        return min(known, default=self._seconds) >= self._seconds

    def _idle(self) -> Idle:
        with self._storage.transaction() as session:
            leases.lease_strays(session, self.store.study_id)
        return Idle.ENDED if self.store.remaining() <= 0 else Idle.WAIT

    def _claim(self, taken: Taken, premises: Premises) -> Claim | None:
        """The trial in full, its missing parameters suggested; None if it was ended elsewhere."""
        trial_id = taken.trial_id
        trial = self._storage.get_trial(trial_id)
        if trial.state.is_finished():
            self._close(trial_id)
            return None
        choices = self._choices(trial)
        self._storage.settle(trial_id, choices, {MACHINE: self.machine})
        params = trial.params | {choice.name: choice.value for choice in choices}
        seeded = trial.user_attrs.get(SEED_OF, trial.number)
        config = trial_config(self.spec, params, seeded, premises)
        history = tuple(self.store.reports_of(trial_id))
        shown = plain_params(params)
        return Claim(trial_id, trial.number, shown, config, taken.token, history)

    def _choices(self, trial: FrozenTrial) -> list[Choice]:
        """What the sampler, or who queued the trial, chooses for it."""
        params = dict(trial.params)
        if not self._missing(params):
            return []
        # As Study.ask does: what samplers are shown is read anew, and knows of this trial.
        self._study._thread_local.cached_all_trials = None
        self._study.get_trials(deepcopy=False)
        asked = optuna.Trial(self._study, trial._trial_id)
        with self._storage.choosing() as choices:
            while missing := self._missing(params):
                for name, distribution in missing.items():
                    params[name] = asked._suggest(name, distribution)
        return choices

    def _missing(self, params: Mapping[str, Any]) -> dict[str, BaseDistribution]:
        """What is still to be chosen for a trial that has these parameters."""
        wanted = distributions(self.spec, params)
        return {name: wanted[name] for name in wanted if name not in params}

    def _close(self, trial_id: int) -> None:
        with self._storage.transaction() as session:
            self._storage.fence(session, trial_id, status="done")
        self._storage.held.pop(trial_id, None)

    # Reporting

    def report(
        self,
        claim: Claim,
        report: EpochReport,
        earlier: Sequence[EpochReport],
        attributes: Mapping[str, Any] = NOTHING,
    ) -> str | None:
        """Store an epoch's report, and ``attributes`` for Optuna's trial; returns a person's wish
        to prune the trial.

        Optuna is given the best value so far, or the last, as the study says; never a NaN. An epoch
        without one goes into our table alone. LeaseLostError where the trial is another's now.
        """
        objective = self.spec.metrics.objective
        value = report.value(objective)
        if value is not None and self.spec.study.value == "best":
            values = [r.value(objective) for r in earlier]
            value = min([value, *(v for v in values if v is not None)])
        return self._persist(
            lambda: self._storage.record_epoch(
                claim.trial_id, report.epoch, report._asdict(), value, attributes
            )
        )

    def pruner_says_stop(self, claim: Claim) -> bool:
        """Whether the pruner would end the trial after the last epoch that was reported.

        What it notes on the trial (successive halving does) is written with its decision: alone
        where the trial goes on, else in the transaction that ends it. So after a crash between
        the two it can be asked again.
        """
        return self._persist(lambda: self._ask_pruner(claim.trial_id))

    def _ask_pruner(self, trial_id: int) -> bool:
        trial = self._storage.get_trial(trial_id)
        with self._storage.putting_off() as marks:
            # Not Trial.should_prune: it would not see what the storage was told directly.
            stop = self._study.pruner.prune(self._study, trial)
        if marks and not stop:
            self._storage.settle(trial_id, [], marks)
        self._marks = marks if stop else {}
        return bool(stop)

    # Ending

    def finish(
        self,
        claim: Claim,
        verdict: Verdict,
        artifact: str | None = None,
        traceback: str | None = None,
        attributes: Mapping[str, Any] = NOTHING,
        note: str | None = None,
    ) -> None:
        """Tell Optuna how the trial ended and why, once; with ``attributes``, and a ``note`` for
        the dashboard. LeaseLostError where it is another's."""
        assert not isinstance(verdict, Continue)
        words = {REASON: verdict.reason, ARTIFACT: artifact, TRACEBACK: traceback}
        words = {k: v for k, v in words.items() if v is not None} | self._marks | dict(attributes)
        self._persist(lambda: self._tell(claim.trial_id, verdict, words, note))
        self._storage.held.pop(claim.trial_id, None)
        self._marks = {}

    def _tell(
        self, trial_id: int, verdict: Verdict, words: dict[str, Any], note: str | None
    ) -> None:
        with self._storage.transaction() as session:
            found = leases.status(session, trial_id, self._storage.held[trial_id])
        if found == "done":  # the answer to an earlier attempt was lost
            return
        trial = self._storage.get_trial(trial_id)
        if trial.state.is_finished():
            self._close(trial_id)
            raise LeaseLostError("the trial has been ended from elsewhere")
        state, values = _ending(trial, verdict)
        study_id, also = self.store.study_id, None
        if note is not None:
            also = functools.partial(add_note, study_id=study_id, trial_id=trial_id, body=note)
        # Not Study.tell: it reads the trial twice more.
        self._storage.end_trial(trial_id, state, values, words, also)

    def release(self, claim: Claim) -> None:
        """Give the trial back, for any worker to go on with at once."""

        def give_back() -> None:
            with self._storage.transaction() as session:
                lease = self._storage.held[claim.trial_id]
                leases.give_back(session.connection(), claim.trial_id, lease)

        self._persist(give_back)
        self._storage.held.pop(claim.trial_id, None)

    # Preparing what all share

    def may_prepare(self) -> bool:
        """Whether this worker is the one to make what the study's workers share; it stays so,
        while it lives, until ``prepared``."""
        ours = tables.studies

        def apply() -> bool:
            free = or_(
                ours.c.preparer.is_(None),
                ours.c.preparer == self.worker,
                ours.c.preparer_until < tables.db_now(),
            )
            with self._storage.transaction() as session:
                row = session.execute(
                    update(ours)
                    .where(ours.c.study_id == self.store.study_id, free)
                    .values(preparer=self.worker, preparer_until=tables.db_now() + self._seconds)
                    .returning(ours.c.study_id)
                ).one_or_none()
            return row is not None

        self._heart.preparing = self._persist(apply)
        return self._heart.preparing

    def prepared(self) -> None:
        """Let others look for what was made, or make it where that failed."""
        self._heart.preparing = False
        ours = tables.studies

        def yield_right() -> None:
            with self._storage.transaction() as session:
                session.execute(
                    update(ours)
                    .where(ours.c.study_id == self.store.study_id, ours.c.preparer == self.worker)
                    .values(preparer=None, preparer_until=None)
                )

        self._persist(yield_right)


def _ending(trial: FrozenTrial, verdict: Verdict) -> tuple[TrialState, list[float] | None]:
    """How Optuna is to know it. A trial without a value can't be COMPLETE, as it has it."""
    if isinstance(verdict, Fail):
        return TrialState.FAIL, None
    if trial.last_step is None:
        return TrialState.PRUNED, None
    state = TrialState.COMPLETE if isinstance(verdict, Complete) else TrialState.PRUNED
    return state, [trial.intermediate_values[trial.last_step]]
