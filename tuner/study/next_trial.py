"""The choice of a worker's next trial: left behind, paused, queued, new, or a confirmation."""

from collections.abc import Callable
from typing import Any

from sqlalchemy.orm import Session

from tuner.spec.study import StudySpec
from tuner.study import leases
from tuner.study.budget import read_budget
from tuner.study.claims import Idle, Search, known_params
from tuner.study.leases import Lease, Taken
from tuner.study.promotion import Promoter
from tuner.study.queue import queued
from tuner.study.space import why_outside_space
from tuner.study.stopping import end_if_stalled
from tuner.study.store import StudyStore


class NextTrial:
    """Takes trials for one worker. Not thread-safe."""

    def __init__(
        self,
        store: StudyStore,
        lease: Lease,
        latest_now: Callable[[], float | None],
        announce: Callable[[str], None],
    ) -> None:
        """``lease`` is the worker's, with any token; for ``latest_now`` see ``leases.take``."""
        self._store, self._storage = store, store.database.rdb
        self._lease, self._latest_now, self._announce = lease, latest_now, announce
        self._spent: str | None = None  # why the budget was spent, when it was read last

    def take(self, search: Search) -> Taken | Idle:
        """Lease a trial: one this worker already holds, one to take over or to promote, a queued or
        a new one, else one that confirms the winner."""
        with self._storage.transaction() as session:
            taken = self._take_begun(session, search)
        if isinstance(taken, Idle):
            return taken
        if taken is not None:
            self._storage.held[taken.trial_id] = self._lease._replace(token=taken.token)
            return taken
        end_if_stalled(self._store, search.spec)
        trial_id = self._storage.begin_trial()
        if trial_id is not None:
            return Taken(trial_id, 1, 0, 0)
        if search.promoter is not None and self._end_paused(search.promoter):
            return self.take(search)
        return self._confirm(search.spec) or self.idle()

    def _take_begun(self, session: Session, search: Search) -> Taken | Idle | None:
        """Lease a trial that has begun. One of this worker's own comes before the budget's end."""
        key, lease, held = self._store.key, self._lease, self._storage.held
        taken = leases.held_unknown(session, key.study_id, lease.worker, held)
        if taken is not None:
            return taken
        if self._is_spent(session, search.spec):
            return Idle.SPENT
        dead = leases.dead_workers(session, key.study_id)
        taken = leases.take(session, key, lease, dead, self._latest_now())
        if taken is not None:
            return taken
        if search.promoter is not None:
            return search.promoter.promote(session, lease)
        # An edit may have replaced asha: then every paused trial continues.
        return leases.resume_paused(session, key, lease)

    def is_budget_spent(self, spec: StudySpec) -> bool:
        """Whether the study's budget is spent; if it is, announces which part of it."""
        with self._storage.transaction() as session:
            return self._is_spent(session, spec)

    def _is_spent(self, session: Session, spec: StudySpec) -> bool:
        if not spec.budget.limits:
            return False
        reason = read_budget(session.connection(), self._store.key).reason
        if reason != self._spent:
            self._spent = reason
            if reason is not None:
                self._announce(f"{reason}: exiting")
        return reason is not None

    def _end_paused(self, promoter: Promoter) -> bool:
        """End paused trials, since no new one can begin; returns whether one can be claimed."""
        with self._storage.transaction() as session:
            return promoter.end_paused(session)

    def _confirm(self, spec: StudySpec) -> Taken | None:
        """Once the search has ended, begin a run that confirms its winner, if one is wanted."""
        if not spec.confirm.top or self._store.search_remaining() > 0:
            return None
        for wanted in self._store.confirmation().wanted:
            original = self._store.frozen_trial(wanted.trial)
            trial_id = self._storage.begin_confirmation(original, wanted)
            if trial_id is not None:
                return Taken(trial_id, 1, 0, 0)
        return None

    def idle(self) -> Idle:
        """Prepare leases for a later takeover, since no trial can be claimed now."""
        with self._storage.transaction() as session:
            leases.lease_orphans(session, self._store.key)
            leases.shorten(session, self._store.key, self._lease.seconds)
        return Idle.ENDED if self._store.remaining() <= 0 else Idle.WAIT

    def upcoming_params(self, spec: StudySpec, limit: int) -> list[dict[str, Any]]:
        """The known parameters, under Optuna's names, of the first ``limit`` trials that can be
        claimed now: those left behind, then the queue."""
        key = self._store.key
        with self._storage.transaction() as session:
            dead = leases.dead_workers(session, key.study_id)
            ids = leases.left_behind(session, key, dead, self._latest_now(), limit)
            ids += session.execute(queued(key.study_id, limit)).scalars()
        trials = [self._storage.get_trial(trial_id) for trial_id in ids[:limit]]
        return [p for p in map(known_params, trials) if p and why_outside_space(spec, p) is None]
