"""Pauses and promotions in the database, for studies whose pruner is ``asha``: see ``rungs``.

A paused trial is RUNNING for Optuna, because other programs never read an ended trial again. Its
lease is ``paused``: it has no worker, never expires, and is taken by a promotion, or to be pruned.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from optuna.trial import TrialState
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from tuner.spec.pruners import AshaPruner
from tuner.spec.study import StudySpec
from tuner.study import leases, rows, tables
from tuner.study.baselines import begun_baselines, is_any_complete
from tuner.study.leases import Lease, Taken
from tuner.study.optuna_internals import models
from tuner.study.rungs import Ladder, Reached, Standings
from tuner.study.tables import StudyKey

_leases, _trials = tables.leases.c, tables.optuna_trials.c


class _Paused(NamedTuple):
    trial_id: int
    rung: int  # the epoch after which it was paused
    bytes: int  # of its checkpoint


class Promoter:
    """Decides on the trials of a study with rungs. Holds no state: all of it is in the database."""

    def __init__(self, study: StudyKey, spec: StudySpec, pruner: AshaPruner) -> None:
        self._study, self._ladder = study, Ladder.of(spec, pruner)
        self._most_bytes = spec.study.checkpoint_gb * 1e9

    def is_rung(self, number: int, epoch: int) -> bool:
        """Whether trial ``number`` may be paused after ``epoch``."""
        return epoch in self._ladder.rungs_of(number)

    def why_pause(self, session: Session, number: int, rung: int) -> str | None:
        """Why the trial does not pass the rung now; None if it does."""
        standings = self._standings(session)
        return None if standings.passes(number, rung) else standings.why_paused(number, rung)

    def promote(self, session: Session, lease: Lease) -> Taken | None:
        """Take the paused trial that is promotable at the highest rung, if there is one; first, one
        that was paused where an edit has left no rung."""
        paused = self._paused(session)
        moved = [number for number, one in paused.items() if not self.is_rung(number, one.rung)]
        ranked = self._standings(session).promotable(_rungs(paused)) if paused else []
        for number in (*moved, *ranked):
            taken = leases.promote(session, self._study, lease, paused[number].trial_id)
            if taken is not None:
                return taken
        return None

    def end_paused(self, session: Session) -> bool:
        """Request the end of all paused trials, because no new trial can begin; returns whether one
        can be claimed now.

        Nothing happens while a running trial may still change what is promotable. A paused trial
        that is better than all complete ones is promoted: see ``Standings.promoted_last``; then a
        baseline, so that the search can be compared with one.
        """
        self._study.lock(session)
        paused = self._paused(session)
        if not paused or self._is_any_active(session):
            return False
        standings, rungs = self._standings(session), _rungs(paused)
        resumed = standings.promoted_last(rungs, self._best_complete(session))
        if resumed is None:
            resumed = self._missing_baseline(session, standings.ranked(rungs))
        if resumed is None:
            for number, one in paused.items():
                why = f"not promoted from {self._place(number, one.rung)}"
                self._request_end(session, one, f"{why}: {standings.why_paused(number, one.rung)}")
        elif not standings.passes(resumed, rungs[resumed]):  # else a claim promotes it
            first = paused[resumed]
            freed = update(tables.leases).where(_leases.trial_id == first.trial_id)
            session.execute(freed.values(status="free", rung=first.rung, checkpoint_bytes=None))
        return True

    def enforce_checkpoint_limit(self, session: Session) -> None:
        """Request the end of the paused trials that are ranked last, until the checkpoints of the
        others fit into ``study.checkpoint_gb``. A baseline that will be trained to the end is
        spared."""
        paused = self._paused(session)
        excess = sum(one.bytes for one in paused.values()) - self._most_bytes
        if excess <= 0:
            return
        ranked = self._standings(session).ranked(_rungs(paused))
        spared = self._missing_baseline(session, ranked)
        for number in reversed([number for number in ranked if number != spared]):
            one = paused[number]
            reason = f"ranked last at {self._place(number, one.rung)}"
            self._request_end(session, one, f"{reason}; study.checkpoint_gb is used up")
            excess -= one.bytes
            if excess <= 0:
                return

    def _place(self, number: int, rung: int) -> str:
        index = self._ladder.rungs_of(number).index(rung) + 1 if self.is_rung(number, rung) else "?"
        return f"epoch {rung} (rung {index})"

    def _request_end(self, session: Session, one: _Paused, reason: str) -> None:
        row = (_leases.trial_id == one.trial_id) & (_leases.status == "paused")
        session.execute(update(tables.leases).where(row).values(prune_reason=reason))

    def _standings(self, session: Session) -> Standings:
        """The values of the study's own trials at the rungs; those of failed trials don't count."""
        value = models.TrialIntermediateValueModel
        query = (
            select(_trials.number, value.step, value.intermediate_value)
            .join_from(tables.optuna_trials, value, value.trial_id == _trials.trial_id)
            .join(tables.leases, _leases.trial_id == _trials.trial_id)
            .where(_trials.study_id == self._study.study_id, self._study.exists())
            .where(_trials.state != TrialState.FAIL, value.step.in_(self._ladder.rungs))
            .where(_leases.confirms.is_(None))
        )
        found = session.execute(query).all()
        return Standings(
            self._ladder, [Reached(*row) for row in found if rows.finite(row[2]) is not None]
        )

    def _paused(self, session: Session) -> dict[int, _Paused]:
        """The paused trials whose end was not requested, by number."""
        query = (
            select(_trials.number, _leases.trial_id, _leases.epoch, _leases.checkpoint_bytes)
            .join_from(tables.leases, tables.optuna_trials, _trials.trial_id == _leases.trial_id)
            .where(_leases.study_id == self._study.study_id, self._study.exists())
            .where(_leases.status == "paused", _leases.prune_reason.is_(None))
            .where(_trials.state == TrialState.RUNNING)
        )
        found = session.execute(query).all()
        return {number: _Paused(one, rung, size or 0) for number, one, rung, size in found}

    def _is_any_active(self, session: Session) -> bool:
        """Whether a trial is running, or waits for a worker to resume or end it."""
        idle = (_leases.status == "paused") & _leases.prune_reason.is_(None)
        active = select(func.count()).where(
            _trials.study_id == self._study.study_id,
            _trials.state == TrialState.RUNNING,
            tables.is_search(),
            ~select(_leases.trial_id).where(_leases.trial_id == _trials.trial_id, idle).exists(),
        )
        return bool(session.execute(active).scalar_one())

    def _missing_baseline(self, session: Session, ranked: Sequence[int]) -> int | None:
        """The baseline ranked first of the paused trials; None if a baseline is complete."""
        found = begun_baselines(session, self._study.study_id)
        numbers = set() if is_any_complete(found) else {one.number for one in found}
        return next((number for number in ranked if number in numbers), None)

    def _best_complete(self, session: Session) -> float | None:
        """The best value of the search's complete trials, by the first objective."""
        value = models.TrialValueModel
        best = func.max if self._ladder.higher else func.min
        query = (
            select(best(value.value))
            .join(tables.optuna_trials, _trials.trial_id == value.trial_id)
            .where(_trials.study_id == self._study.study_id, value.objective == 0)
            .where(value.value_type == value.TrialValueType.FINITE)
            .where(_trials.state == TrialState.COMPLETE, tables.is_search())
        )
        return rows.finite(session.execute(query).scalar_one())


def _rungs(paused: Mapping[int, _Paused]) -> dict[int, int]:
    return {number: one.rung for number, one in paused.items()}
