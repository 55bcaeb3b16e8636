"""``WorkerSession``: a worker's part in a study. Claims trials, reports on them, ends them.

Every RUNNING trial has a lease. Before ``claim`` begins new trials, it takes over those that other
workers released or left behind, and promotes paused ones; such a trial keeps its number and its
reports. All methods can be repeated after a database failure with unknown outcome: a lease this
worker already holds is reused, a stored report is not stored again, and so on.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from tuner.epoch_report import EpochReport, History
from tuner.errors import LeaseLostError, TunerError
from tuner.phases import PhaseClock
from tuner.spec.study import StudySpec
from tuner.study import leases, tables
from tuner.study.claims import Claim, Idle, Refusal, Search, make_claim
from tuner.study.dashboard_attributes import add_note
from tuner.study.leases import Lease, Taken
from tuner.study.next_trial import NextTrial
from tuner.study.objectives import objective_values
from tuner.study.presence import WorkerPresence, persistent
from tuner.study.records import ARTIFACT, PAUSED, REASON, TRACEBACK, hang_of, size_of
from tuner.study.retrying import LIMIT
from tuner.study.screening import comparable
from tuner.study.store import StudyStore
from tuner.study.verdict import Complete, Continue, Fail, Pause, Prune, Verdict
from tuner.trial import DatasetInfo

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
        self._search = Search.of(store, self.spec)
        lease = Lease(self.worker, 0, self._seconds)
        self._trials = NextTrial(store, lease, self._latest_now, announce)
        self._broken = 0  # trials in a row that could not be begun for an unknown reason
        self._marks: dict[str, Any] = {}  # the pruner's attributes for a trial that is to end

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
                taken = self._persist(lambda: self._trials.take(self._search))
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
        """Apply an edited study file, and notice whether the study is on hold."""
        self.store.refresh()
        self._heart.on_hold = self.store.on_hold
        if (spec := self.store.spec) is not self.spec:
            self.when_edited(spec)
            self.spec, self._search = spec, Search.of(self.store, spec)

    @persistent
    def is_budget_spent(self) -> bool:
        """Whether the study's budget is spent; if it is, announces which part of it."""
        return self._trials.is_budget_spent(self.spec)

    def upcoming_params(self, limit: int) -> list[dict[str, Any]]:
        """See ``NextTrial.upcoming_params``. StorageError if the database is unavailable."""
        with self._database.errors():
            return self._trials.upcoming_params(self.spec, limit)

    @persistent
    def _begin(self, taken: Taken, dataset: DatasetInfo) -> Claim | Refusal | None:
        """Read the trial and choose its parameters; None if it was ended elsewhere."""
        try:
            claim = make_claim(self.store, self._search, taken, dataset, self.machine)
        except (TunerError, SQLAlchemyError, StorageInternalError, UpdateFinishedTrialError):
            raise
        except Exception as error:  # mostly a sampler's, which must not end the worker
            if isinstance(error, KeyError) and not self.store.exists():
                raise
            return Refusal(*self.describe_error(error))
        if claim is None:
            self._close(taken.trial_id)
        return claim

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
        """The pruner's decision on the trial after ``epoch``, the last one reported, which has a
        value; None if the trial continues."""
        if claim.confirms is not None:
            return None
        if self._search.promoter is not None:
            return self._pause_at(claim, epoch)
        name = self.spec.pruner.name
        stops = self._pruner_says_stop(claim)
        return Prune(f"pruned by {name} at epoch {epoch}") if stops else None

    @persistent
    def _pause_at(self, claim: Claim, epoch: int) -> Pause | None:
        """Whether the trial pauses after ``epoch``. A rung that it passes is stored: a crash can't
        change the decision."""
        promoter = self._search.promoter
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
            stop = self._search.study.pruner.prune(self._search.judged, trial)
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
        if isinstance(verdict, Fail):
            return TrialState.FAIL, None
        if trial.last_step is None:
            return TrialState.PRUNED, None
        state = TrialState.COMPLETE if isinstance(verdict, Complete) else TrialState.PRUNED
        if not self.spec.metrics.several:
            return state, [trial.intermediate_values[trial.last_step]]
        if state == TrialState.PRUNED:
            return state, None  # its last report stands for the first objective
        history = History(self.store.reports_of(trial._trial_id))
        found = objective_values(self.spec, history, size_of(attributes))
        return (TrialState.PRUNED, None) if found is None else (state, list(found.values()))

    @persistent
    def pause(self, claim: Claim, checkpoint_bytes: int) -> None:
        """Pause the trial, whose checkpoint of this size is durable: a worker that promotes it, or
        that ends it, resumes from there. LeaseLostError if another worker owns the trial now."""
        trial_id, held, promoter = claim.trial_id, self._storage.held, self._search.promoter
        assert promoter is not None
        with self._storage.transaction() as session:
            self.store.key.lock(session)
            # Else the answer to an earlier attempt was lost.
            if leases.status(session, trial_id, held[trial_id]) != "paused":
                values = {"checkpoint_bytes": checkpoint_bytes, "stopped_at": tables.db_now()}
                row = self._storage.fence(session, trial_id, status="paused", **values)
                paused = tables.trial_attributes.c.trial_id
                tables.write_attributes(session, paused, trial_id, {PAUSED: row.epoch})
                promoter.enforce_checkpoint_limit(session)
        del held[trial_id]

    @persistent
    def release(self, claim: Claim) -> None:
        """Give the trial back: any worker can resume it at once."""
        with self._storage.transaction() as session:
            lease = self._storage.held[claim.trial_id]
            seconds = self.clock.of_trial()
            leases.release(session.connection(), claim.trial_id, lease, seconds)
        del self._storage.held[claim.trial_id]
