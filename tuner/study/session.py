"""``WorkerSession``: a worker's part in a study. Claims trials, reports on them, ends them.

Every RUNNING trial has a lease. Before ``claim`` begins new trials, it takes over those that other
workers gave back or left behind, and promotes paused ones; such a trial keeps its number and its
reports. All methods can be repeated after a database failure with unknown outcome: a lease this
worker already holds is reused, a stored report is not stored again, and so on.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from tuner.errors import LeaseLostError, TunerError
from tuner.phases import PhaseClock
from tuner.spec.branches import setting_params
from tuner.spec.search import AshaPruner
from tuner.spec.study import StudySpec
from tuner.study import leases, tables
from tuner.study.budget import read_budget
from tuner.study.claims import Claim, Idle, Refusal, choose_params, known_params, problem_of
from tuner.study.confirmation import FIRST_SEED
from tuner.study.dashboard_attributes import add_note
from tuner.study.edits import earlier_specs
from tuner.study.leases import Lease, Taken
from tuner.study.objectives import objective_values
from tuner.study.presence import WorkerPresence, persistent
from tuner.study.promotion import Promoter
from tuner.study.queue import queued
from tuner.study.records import (
    ARTIFACT,
    MACHINE,
    PAUSED,
    REASON,
    SEED_OF,
    TRACEBACK,
    confirms_of,
    hang_of,
    size_of,
)
from tuner.study.retrying import LIMIT
from tuner.study.samplers import make_pruner, make_sampler
from tuner.study.screening import by_first_objective, comparable, screened
from tuner.study.space import misfit, trial_config
from tuner.study.stopping import end_if_stalled
from tuner.study.store import StudyStore
from tuner.study.verdict import Complete, Continue, Fail, Pause, Prune, Verdict
from tuner.trial import DatasetInfo, EpochReport, History

MAX_BROKEN = 5  # trials in a row that can't be begun for an unknown reason
NOTHING: Mapping[str, Any] = {}


class WorkerSession(WorkerPresence):
    """One worker in one study, from joining to leaving. Not thread-safe, except where noted."""

    def __init__(
        self,
        store: StudyStore,
        machine: dict[str, str],
        announce: Callable[[str], None],
        retry_seconds: float = LIMIT,
        clock: PhaseClock | None = None,
    ) -> None:
        """See ``WorkerPresence``."""
        super().__init__(store, machine, announce, retry_seconds, clock)
        # Called with an edited study file, before a trial is claimed under it.
        self.when_edited: Callable[[StudySpec], None] = lambda spec: None
        self._follow(self.spec)
        self._broken = 0  # trials in a row that could not be begun for an unknown reason
        self._spent: str | None = None  # why the budget was spent, when it was read last
        self._marks: dict[str, Any] = {}  # the pruner's attributes for a trial that is to end

    def _follow(self, spec: StudySpec) -> None:
        """Sample and prune by this study file."""
        self.spec, self._study = spec, search_of(self.store, spec)
        several = spec.metrics.several
        self._judged = by_first_objective(self.store.study, spec) if several else self._study
        self._promoter: Promoter | None = None
        if isinstance(spec.pruner, AshaPruner):
            self._promoter = Promoter(self.store.key, spec, spec.pruner)

    # Claiming

    def claim(self, dataset: DatasetInfo) -> Claim | Idle:
        """Claim a trial: one left behind, else a paused one that is promotable, else the next in
        the queue, else one from the sampler. None is claimed once the study's budget is spent.

        A trial that can't be begun, such as a queued point outside the search space, fails with the
        reason. TunerError if several in a row can't be begun for an unknown reason; InputError if
        the study file was edited so that this worker can't run it.
        """
        while True:
            self._look_at_study()
            if self.store.on_hold:
                return Idle.ENDED if self._persist(self.store.remaining) <= 0 else Idle.ON_HOLD
            self._storage.held.clear()
            self._marks = {}
            # A lease is lost here if this process was suspended: take the next trial.
            with contextlib.suppress(LeaseLostError):
                taken = self._next()
                if isinstance(taken, Idle):
                    return taken
                self._last = taken.trial_id, self._storage.held[taken.trial_id]
                self.clock.begin_trial(taken.seconds)
                claim = self._begin(taken, dataset)
                if isinstance(claim, Refusal):
                    self._refuse(taken.trial_id, claim)
                elif claim is not None:
                    if taken.takeovers <= self.spec.study.max_takeovers:
                        self._broken = 0
                        return claim
                    self._fail_exhausted(claim, taken.takeovers)

    @persistent
    def _look_at_study(self) -> None:
        """Take up an edited study file, and notice whether the study is on hold."""
        self.store.refresh()
        self._heart.on_hold = self.store.on_hold
        if (spec := self.store.spec) is not self.spec:
            self.when_edited(spec)
            self._follow(spec)

    @persistent
    def _next(self) -> Taken | Idle:
        """Lease a trial: one this worker already holds, one to take over or to promote, a queued or
        a new one."""
        key, held = self.store.key, self._storage.held
        with self._storage.transaction() as session:
            taken = leases.held_unknown(session, key.study_id, self.worker, held)
            if taken is None and self._is_spent(session):
                return Idle.SPENT
            if taken is None:
                lease = Lease(self.worker, 0, self._seconds)
                dead = leases.dead_workers(session, key.study_id, self.worker)
                latest = self._heart.latest_now if self._can_expire() else None
                taken = leases.take(session, key, lease, dead, latest)
                if taken is None:
                    taken = self._take_paused(session, lease)
        if taken is not None:
            held[taken.trial_id] = Lease(self.worker, taken.token, self._seconds)
            return taken
        end_if_stalled(self.store, self.spec)
        trial_id = self._storage.begin_trial()
        if trial_id is not None:
            return Taken(trial_id, 1, 0, 0)
        if self._end_paused():
            return self._next()
        return self._confirm() or self._idle()

    @persistent
    def is_budget_spent(self) -> bool:
        """Whether the study's budget is spent; if it is, announces which part of it."""
        with self._storage.transaction() as session:
            return self._is_spent(session)

    def _is_spent(self, session: Session) -> bool:
        if not self.spec.budget.limits:
            return False
        reason = read_budget(session.connection(), self.store.key).reason
        if reason != self._spent:
            self._spent = reason
            if reason is not None:
                self._announce(f"{reason}: exiting")
        return reason is not None

    def _confirm(self) -> Taken | None:
        """Once the search has ended, begin a run that confirms its winner, if one is wanted."""
        if not self.spec.confirm.top or self.store.search_remaining() > 0:
            return None
        for wanted in self.store.confirmation().wanted:
            original = self.store.frozen_trial(wanted.trial)
            trial_id = self._storage.begin_confirmation(original, wanted)
            if trial_id is not None:
                return Taken(trial_id, 1, 0, 0)
        return None

    def _take_paused(self, session: Session, lease: Lease) -> Taken | None:
        """Promote a paused trial. If an edit has replaced asha, each of them goes on."""
        if self._promoter is not None:
            return self._promoter.promote(session, lease)
        return leases.resume_paused(session, self.store.key, lease)

    def _end_paused(self) -> bool:
        """Without a new trial to begin, let paused ones end; returns whether one can be claimed."""
        if self._promoter is None:
            return False
        with self._storage.transaction() as session:
            return self._promoter.end_paused(session)

    def coming(self, most: int) -> list[dict[str, Any]]:
        """What is known of the parameters, under Optuna's names, of the trials that can be claimed
        now: those left behind, then the queue; at most ``most``. StorageError if the database is
        away."""
        key = self.store.key
        with self._database.errors():
            with self._storage.transaction() as session:
                dead = leases.dead_workers(session, key.study_id, self.worker)
                latest = self._heart.latest_now if self._can_expire() else None
                ids = leases.left_behind(session, key, dead, latest, most)
                ids += session.execute(queued(key.study_id, most)).scalars()
            trials = [self._storage.get_trial(trial_id) for trial_id in ids[:most]]
        return [p for p in map(known_params, trials) if p and misfit(self.spec, p) is None]

    def _idle(self) -> Idle:
        """Without a trial to claim now, prepare leases for a later takeover."""
        with self._storage.transaction() as session:
            leases.lease_orphans(session, self.store.key)
            leases.shorten(session, self.store.key, self._seconds)
        return Idle.ENDED if self.store.remaining() <= 0 else Idle.WAIT

    def _can_expire(self) -> bool:
        """Whether an expired lease means a lost worker: not right after a database outage, in which
        no worker could renew its leases."""
        troubles = (self._retrier.last_trouble, self._heart.last_trouble)
        ages = [time.monotonic() - moment for moment in troubles if moment is not None]
        return min(ages, default=self._seconds) >= self._seconds

    @persistent
    def _begin(self, taken: Taken, dataset: DatasetInfo) -> Claim | Refusal | None:
        """Read the trial and choose its parameters; None if it was ended elsewhere."""
        try:
            return self._claim(taken, dataset)
        except (TunerError, SQLAlchemyError, StorageInternalError, UpdateFinishedTrialError):
            raise
        except Exception as error:  # mostly a sampler's, which must not end the worker
            if isinstance(error, KeyError) and not self.store.exists():
                raise
            return Refusal(*self.described(error))

    def _claim(self, taken: Taken, dataset: DatasetInfo) -> Claim | Refusal | None:
        trial_id = taken.trial_id
        trial = self._storage.get_trial(trial_id)
        if trial.state.is_finished():
            self._close(trial_id)
            return None
        history = tuple(self.store.reports_of(trial_id))
        spec, study = self._search_for(trial)
        problem = problem_of(spec, trial, [report.epoch for report in history], taken.epoch)
        if problem is not None:
            return Refusal(problem)
        choices = choose_params(study, self._storage, spec, trial)
        self._storage.write_params(trial_id, choices, {MACHINE: self.machine})
        params = trial.params | {choice.name: choice.value for choice in choices}
        confirms = confirms_of(trial.user_attrs)
        seeded = trial.user_attrs.get(SEED_OF, trial.number)
        if confirms is not None:
            seeded = FIRST_SEED + confirms.seed
        config = trial_config(spec, params, seeded, dataset)
        predecessor = None
        if history and (owners := self.store.ownership_history(trial.number)):
            last = owners[-1]
            predecessor = f"worker {last.worker} on {last.host or 'an unknown host'}"
        known = setting_params(params)
        return Claim(
            trial_id=trial_id,
            number=trial.number,
            params=known,
            config=config,
            token=taken.token,
            history=history,
            predecessor=predecessor,
            rung=taken.rung,
            confirms=confirms,
            prune_reason=taken.prune_reason,
            lost=taken.lost,
        )

    def _search_for(self, trial: FrozenTrial) -> tuple[StudySpec, optuna.Study]:
        """The study file and search for a trial: those from before an edit if it was begun or
        queued with parameters that the edit has excluded."""
        known = known_params(trial)
        if known and misfit(self.spec, known) is not None:
            for earlier in earlier_specs(self.store):
                if misfit(earlier, known) is None:
                    return earlier, search_of(self.store, earlier)
        return self.spec, self._study

    def _refuse(self, trial_id: int, refusal: Refusal) -> None:
        """Fail a trial that can't be begun."""
        reasons = {REASON: refusal.reason}
        reasons |= {TRACEBACK: refusal.traceback} if refusal.traceback else {}
        self._persist(lambda: self._storage.fail_trial(trial_id, reasons))
        del self._storage.held[trial_id]
        self._announce(f"a trial can't be run: {refusal.reason}")
        self._broken = self._broken + 1 if refusal.traceback else 0
        if self._broken == MAX_BROKEN:
            text = f"{MAX_BROKEN} trials in a row could not be begun, the last with"
            raise TunerError(f"{text}: {refusal.reason}")

    def _fail_exhausted(self, claim: Claim, takeovers: int) -> None:
        """Fail a trial that has been taken over too often without an epoch in between."""
        text = f"lost its worker {takeovers} times without getting an epoch further"
        with self._database.errors():
            hang = hang_of(self._storage.get_trial(claim.trial_id).user_attrs)
        if hang is not None and hang.reported == len(claim.history):
            text = f"{text}; the last time, {hang.what}"
        self.finish(claim, Fail(text))

    def _close(self, trial_id: int) -> None:
        with self._storage.fenced(trial_id, status="done", stopped_at=tables.db_now()):
            pass
        del self._storage.held[trial_id]

    # Reporting

    @persistent
    def report(
        self,
        claim: Claim,
        report: EpochReport,
        earlier: Sequence[EpochReport],
        attributes: Mapping[str, Any] = NOTHING,
    ) -> str | None:
        """Store an epoch's report, and ``attributes`` for Optuna's trial; returns the reason of a
        request to prune the trial, if any.

        Optuna gets the best value so far or the last one, depending on the study's ``value``; never
        NaN. An epoch without a value is stored only in our table. LeaseLostError if another worker
        owns the trial now.
        """
        objective = self.spec.metrics.objective
        value = report.value(objective)
        if value is not None and self.spec.study.value == "best":
            value = History((*earlier, report)).best_so_far(objective)[report.epoch]
        return self._storage.record_epoch(
            claim.trial_id, report.epoch, report._asdict(), value, attributes
        )

    def pruner_decision(self, claim: Claim, epoch: int) -> Pause | Prune | None:
        """What the pruner would do with the trial after ``epoch``, the last one reported, which has
        a value; None if the trial continues."""
        if claim.confirms is not None:
            return None
        if self._promoter is not None:
            return self._pause_at(claim, epoch)
        name = self.spec.pruner.name
        stops = self._pruner_says_stop(claim)
        return Prune(f"pruned by {name} at epoch {epoch}") if stops else None

    @persistent
    def _pause_at(self, claim: Claim, epoch: int) -> Pause | None:
        """Whether the trial pauses after ``epoch``. If it passes a rung, that is stored, so after a
        crash it can't be decided otherwise."""
        promoter = self._promoter
        assert promoter is not None
        if epoch <= claim.rung or not promoter.is_rung(claim.number, epoch):
            return None
        with self._storage.transaction() as session:
            reason = promoter.why_pause(session, claim.number, epoch)
            self._storage.fence(session, claim.trial_id, **({} if reason else {"rung": epoch}))
        return Pause(f"paused at epoch {epoch}: {reason}") if reason else None

    @persistent
    def _pruner_says_stop(self, claim: Claim) -> bool:
        """Whether Optuna's pruner would end the trial after the last reported epoch.

        Attributes that the pruner sets (successive halving does) are stored at once if the trial
        continues, else in the transaction that ends it. So after a crash in between, the next
        owner's pruner decides from the same attributes.
        """
        trial = self._storage.get_trial(claim.trial_id)
        trial = comparable(self.spec, trial) or trial
        with self._storage.deferred_attributes() as marks:
            # Not Trial.should_prune: its cached trial lacks values written to the storage directly.
            stop = self._study.pruner.prune(self._judged, trial)
        if marks and not stop:
            self._storage.write_params(claim.trial_id, [], marks)
        self._marks = marks if stop else {}
        return bool(stop)

    # Ending

    @persistent
    def finish(
        self,
        claim: Claim,
        verdict: Verdict,
        artifact: str | None = None,
        traceback: str | None = None,
        attributes: Mapping[str, Any] = NOTHING,
        note: str | None = None,
    ) -> None:
        """Store the verdict on the trial with ``attributes``, and a ``note`` for the dashboard.

        LeaseLostError if another worker owns the trial now.
        """
        assert not isinstance(verdict, Continue)
        trial_id, held = claim.trial_id, self._storage.held
        with self._storage.transaction() as session:
            status = leases.status(session, trial_id, held[trial_id])
        if status != "done":  # else the answer to an earlier attempt was lost
            trial = self._storage.get_trial(trial_id)
            if trial.state.is_finished():
                self._close(trial_id)
                raise LeaseLostError("another process has ended the trial")
            ours = {REASON: verdict.reason, ARTIFACT: artifact, TRACEBACK: traceback}
            ours = {k: v for k, v in ours.items() if v is not None} | self._marks | dict(attributes)
            study_id, also = self.store.study_id, None
            if note is not None:
                also = functools.partial(add_note, study_id=study_id, trial_id=trial_id, body=note)
            # Not Study.tell: it reads the trial twice more.
            self._storage.end_trial(trial_id, *self._final_state(trial, verdict, ours), ours, also)
        del held[trial_id]
        self._marks = {}

    def _final_state(
        self, trial: FrozenTrial, verdict: Verdict, attributes: Mapping[str, Any]
    ) -> tuple[TrialState, list[float] | None]:
        """State and values for Optuna, where a trial that was never measured can't be COMPLETE."""
        state, values = _last_reported(trial, verdict)
        if not self.spec.metrics.several:
            return state, values
        if state != TrialState.COMPLETE:
            return state, None  # its last report stands for the first objective
        history = History(self.store.reports_of(trial._trial_id))
        found = objective_values(self.spec, history, size_of(attributes))
        if found is None:
            return TrialState.PRUNED, None
        return state, list(found.values())

    @persistent
    def pause(self, claim: Claim, checkpoint_bytes: int) -> None:
        """Pause the trial, whose checkpoint of this size is durable: a worker that promotes it, or
        that ends it, resumes from there. LeaseLostError if another worker owns the trial now."""
        trial_id, held, promoter = claim.trial_id, self._storage.held, self._promoter
        assert promoter is not None
        with self._storage.transaction() as session:
            self.store.key.lock(session)
            # Else the answer to an earlier attempt was lost.
            if leases.status(session, trial_id, held[trial_id]) != "paused":
                values = {"checkpoint_bytes": checkpoint_bytes, "stopped_at": tables.db_now()}
                row = self._storage.fence(session, trial_id, status="paused", **values)
                paused = tables.trial_attributes.c.trial_id
                tables.write_attributes(session, paused, trial_id, {PAUSED: row.epoch})
                promoter.keep_to_budget(session)
        del held[trial_id]

    @persistent
    def release(self, claim: Claim) -> None:
        """Give the trial back: any worker can resume it at once."""
        with self._storage.transaction() as session:
            lease = self._storage.held[claim.trial_id]
            seconds = self.clock.of_trial()
            leases.give_back(session.connection(), claim.trial_id, lease, seconds)
        del self._storage.held[claim.trial_id]


def search_of(store: StudyStore, spec: StudySpec) -> optuna.Study:
    """The study as its sampler and pruner see it, with both."""
    study = screened(store.study, spec)
    study.sampler, study.pruner = make_sampler(spec), make_pruner(spec)
    return study


def _last_reported(trial: FrozenTrial, verdict: Verdict) -> tuple[TrialState, list[float] | None]:
    """State and value for Optuna, if the study has one objective."""
    if isinstance(verdict, Fail):
        return TrialState.FAIL, None
    if trial.last_step is None:
        return TrialState.PRUNED, None
    state = TrialState.COMPLETE if isinstance(verdict, Complete) else TrialState.PRUNED
    return state, [trial.intermediate_values[trial.last_step]]
