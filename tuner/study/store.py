"""``StudyStore``: a study in its database, with its trials and workers."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import ColumnElement, ScalarSelect, Select, func, select

from tuner.epoch_report import DURATIONS, EpochReport
from tuner.errors import InputError
from tuner.phases import UNCOUNTED, PhaseSeconds
from tuner.spec.metrics import OBJECTIVES
from tuner.study import rows, tables
from tuner.study.budget import Budget, Unfinished, read_budget, read_unfinished
from tuner.study.confirmation import Confirmation, Result, confirmation, results
from tuner.study.epochs import read_reports
from tuner.study.fingerprint import digest
from tuner.study.objectives import cost, pareto_front
from tuner.study.records import (
    FINISHED,
    TRACEBACK,
    Hang,
    StudySummary,
    TrialRecord,
    best_of,
    hang_of,
    record_of,
)
from tuner.study.study_row import StudyRow
from tuner.study.workers import WorkerRecord, has_reported, read_workers

METRIC_NAMES = "study:metric_names"  # Optuna's


class _Leased(NamedTuple):
    """Facts about a trial from its lease."""

    paused: bool
    seconds: PhaseSeconds


_NOT_LEASED = _Leased(False, UNCOUNTED)


class StudyStore(StudyRow):
    """A study in its database. Only ``WorkerSession`` runs its trials."""

    def remaining(self) -> int:
        """The number of trials still to finish, then that of runs that may still have to confirm
        the winner. Failed trials do not count as finished."""
        left, confirm = self.search_remaining(), self.spec.confirm
        if left > 0 or not confirm.top:
            return max(left, 0)
        return self.confirmation().runs_left(confirm.seeds)

    def confirmation(self, *, reports: bool = False) -> Confirmation:
        """The progress of the winner's confirmation; ``reports``: with the epochs."""
        if reports:
            records = self._begun()
        else:
            with self.database.errors():
                trials = self.study.get_trials(deepcopy=False)
                records = [self._record(t) for t in trials if t.state != TrialState.WAITING]
        search = [record for record in records if not record.confirms]
        runs = [record for record in records if record.confirms]
        return confirmation(self.spec.confirm, search, runs)

    def confirmed(self) -> list[Result]:
        """The results of the confirmation's runs so far, the best configuration first; empty before
        the first run has ended."""
        found = self.confirmation(reports=True)
        if not any(run.has_ended for one in found.configurations.values() for run in one.runs):
            return []
        return results(self.spec.confirm, found, self.spec.metrics.objective)

    def winner(self) -> TrialRecord | None:
        """The search's trial of the configuration with the lowest mean over seeds; None if no
        configuration is confirmed."""
        confirmed = self.confirmed() if self.spec.confirm.top else []
        return confirmed[0].trial if confirmed and math.isfinite(confirmed[0].value.mean) else None

    def search_remaining(self) -> int:
        """The number of the search's trials still to finish."""
        return self.search_progress()[1]

    def search_progress(self) -> tuple[int, int]:
        """The numbers of the search's trials that have finished, and that are still to finish: if
        the search has ended early, those that have begun or are queued."""
        ours = tables.studies.c
        open_states = (TrialState.RUNNING, TrialState.WAITING)
        counts = (self._count(FINISHED), self._count(open_states))
        query = select(ours.total, ours.ended_reason, *counts).where(self.key.row())
        with self.database.reading() as connection:
            row = connection.execute(query).one_or_none()
            if row is None:
                raise KeyError("the study")
        self.total, self.ended_reason, finished, begun = row
        left = self.total - finished
        return finished, left if self.ended_reason is None else min(left, begun)

    def _count(self, states: Sequence[TrialState]) -> ScalarSelect[int]:
        trials = tables.optuna_trials.c
        return (
            select(func.count())
            .where(trials.study_id == self.study_id, trials.state.in_(states), tables.is_search())
            .scalar_subquery()
        )

    def budget(self) -> Budget:
        """The study's budget and what was spent so far."""
        with self.database.reading() as connection:
            return read_budget(connection, self.key)

    def unfinished(self) -> Unfinished:
        """The trials still to finish, by state."""
        remaining = self.remaining()
        with self.database.reading() as connection:
            return read_unfinished(connection, self.key, remaining)

    def ended(self) -> set[int]:
        """The numbers of all trials that have ended, failed ones included."""
        trials = tables.optuna_trials.c
        query = select(trials.number).where(
            trials.study_id == self.study_id,
            trials.state.in_((*FINISHED, TrialState.FAIL)),
            # SQLite may have given the id to another study.
            self.key.exists(),
        )
        with self.database.reading() as connection:
            return set(connection.execute(query).scalars())

    def summary(self) -> StudySummary:
        """Summarise the study for a list of studies."""
        with self.database.errors():
            trials = self.study.get_trials(deepcopy=False)
            paused = self._leases(tables.leases.c.status == "paused")
            names = self.database.rdb.get_study_system_attrs(self.study_id).get(METRIC_NAMES)
        records = [self._record(trial, paused=trial._trial_id in paused) for trial in trials]
        states = Counter(record.state for record in records if not record.confirms)
        best, parts = best_of(records), self.fingerprint()
        labels = filter(None, map(rows.text, names if isinstance(names, list) else []))
        objective = ", ".join(labels) or "FID"
        measured = (best and best.value, objective, digest(parts) if parts else None)
        self.refresh()
        flags = self.on_hold, self.ended_reason
        alive = sum(worker.alive for worker in self.workers())
        spent = self.budget().reason
        return StudySummary(self.name, self.total, dict(states), *measured, *flags, alive, spent)

    # Trials

    def trials(self) -> list[TrialRecord]:
        """Every trial of the search that has begun, with its reports, by number."""
        return [trial for trial in self._begun() if not trial.confirms]

    def confirmation_trials(self) -> list[TrialRecord]:
        """The trials that confirm others, with their reports, by number."""
        return [trial for trial in self._begun() if trial.confirms]

    def _begun(self) -> list[TrialRecord]:
        with self.database.errors():
            trials = self.study.get_trials(deepcopy=False)
            begun = [trial for trial in trials if trial.state != TrialState.WAITING]
            return self._records(begun, whole_study=True)

    def running(self) -> list[TrialRecord]:
        """The running trials, without paused ones, with their reports so far, by number."""
        with self.database.errors():
            trials = self.database.rdb.get_all_trials(self.study_id, False, (TrialState.RUNNING,))
            return [record for record in self._records(trials) if record.state == "RUNNING"]

    def _records(
        self, trials: Sequence[FrozenTrial], *, whole_study: bool = False
    ) -> list[TrialRecord]:
        """The trials with their reports; ``whole_study`` reads the reports without listing ids."""
        ids = self._trial_ids() if whole_study else [trial._trial_id for trial in trials]
        with self.database.rdb.engine.connect() as connection:
            reports = read_reports(connection, tables.epochs.c.trial_id.in_(ids))
        leased = self._leases(tables.leases.c.trial_id.in_(ids))
        with self.database.rdb.engine.connect() as connection:
            # If SQLite has given the id to another study, its rows were read.
            if not connection.execute(select(self.key.exists())).scalar_one():
                raise KeyError("the study")
        found = []
        for trial in trials:
            one = leased.get(trial._trial_id, _NOT_LEASED)
            mine = reports.get(trial._trial_id, [])
            found.append(self._record(trial, mine, one.seconds, paused=one.paused))
        return found

    def _record(self, trial: FrozenTrial, *about: Any, paused: bool = False) -> TrialRecord:
        return record_of(trial, *(about or ((),)), paused=paused, objectives=self.objectives)

    def _trial_ids(self) -> Select[tuple[int]]:
        trials = tables.optuna_trials.c
        return select(trials.trial_id).where(trials.study_id == self.study_id)

    def seconds(self) -> dict[str, float]:
        """The durations in all epoch reports, each summed over the study."""
        ours = tables.epochs.c
        sums = select(*(func.sum(ours[name]) for name in DURATIONS))
        query = sums.where(ours.trial_id.in_(self._trial_ids()), self.key.exists())
        with self.database.reading() as connection:
            found = map(rows.finite, connection.execute(query).one())
        return {name: total or 0.0 for name, total in zip(DURATIONS, found, strict=True)}

    def reports_of(self, trial_id: int) -> list[EpochReport]:
        """The reports of a trial so far, in order."""
        with self.database.reading() as connection:
            reports = read_reports(connection, tables.epochs.c.trial_id == trial_id)
        return reports.get(trial_id, [])

    def _leases(self, where: ColumnElement[bool]) -> dict[int, _Leased]:
        """Facts about the study's trials from their leases, by trial id."""
        ours = tables.leases.c
        columns = [ours[name] for name in tables.PHASE_COLUMNS.values()]
        query = select(ours.trial_id, ours.status, *columns)
        query = query.where(ours.study_id == self.study_id, where)
        with self.database.rdb.engine.connect() as connection:
            return {
                trial_id: _Leased(status == "paused", rows.phase_seconds(values))
                for trial_id, status, *values in connection.execute(query)
            }

    def trial(self, number: int) -> TrialRecord:
        """The trial ``number``; InputError if there is none."""
        trials = {trial.number: trial for trial in self._begun()}
        if number not in trials:
            known = f"its trials are 0 to {max(trials)}" if trials else "none has begun"
            raise InputError(f"study {self.name!r} has no trial {number}; {known}")
        return trials[number]

    def best(self) -> TrialRecord:
        """The complete trial with the best value; InputError if none is complete."""
        found = self.best_so_far()
        if found is None:
            raise self.none_complete()
        return found

    def none_complete(self) -> InputError:
        """The error when a complete trial is needed and there is none. It names the leading trial,
        since with a small budget all trials may be paused."""
        text = f"study {self.name!r} has no complete trial yet"
        objective = self.spec.metrics.objective
        eligible = [trial for trial in self.trials() if trial.state != "FAIL"]
        values = [(trial.history.best_value(objective), trial) for trial in eligible]
        measured = [(value, trial) for value, trial in values if value is not None]
        if measured:
            value, leader = min(measured, key=lambda pair: cost(objective, pair[0]))
            text += f"; the best so far is trial {leader.number} ({leader.state.lower()}):"
            text += f" {OBJECTIVES[objective]} {value:.4g}"
        return InputError(text)

    def front(self) -> list[TrialRecord]:
        """The Pareto front, by the first objective; of one objective, the best trial, if any."""
        return pareto_front(self.trials())

    def best_kept(self) -> TrialRecord:
        """The trial whose generator is delivered: the confirmed winner, else the complete trial
        with the best value among those with a stored generator.

        InputError if there is none. Trials that another program added have no generator.
        """
        winner = self.winner()
        if winner is not None and winner.artifact is not None:
            return winner
        found = self.best_so_far(kept=True)
        if found is None:
            raise InputError(f"study {self.name!r}: no complete trial has a stored generator")
        return found

    def best_so_far(self, *, kept: bool = False) -> TrialRecord | None:
        """The complete trial with the best value, if any; ``kept``: with a stored generator."""
        with self.database.errors():
            trials = self.study.get_trials(False, (TrialState.COMPLETE,))
            records = [self._record(trial) for trial in trials]
            best = best_of([r for r in records if not kept or r.artifact is not None])
            found = [trial for trial in trials if best and trial.number == best.number]
            return next(iter(self._records(found)), None)

    def frozen_trial(self, number: int) -> FrozenTrial:
        """The trial as Optuna reads it; KeyError if there is none."""
        with self.database.errors():
            trials = self.study.get_trials(deepcopy=False)
        return {trial.number: trial for trial in trials}[number]

    def traceback(self, number: int) -> str | None:
        """The traceback with which a trial failed; None if it did not."""
        return rows.text(self._attributes(number).get(TRACEBACK))

    def hang(self, number: int) -> Hang | None:
        """The last hang of a trial; None if it never hung."""
        return hang_of(self._attributes(number))

    def _attributes(self, number: int) -> Mapping[str, Any]:
        try:
            return self.frozen_trial(number).user_attrs
        except KeyError:
            return {}

    def workers(self) -> list[WorkerRecord]:
        """The workers that have joined and not left: see ``read_workers``."""
        seconds = self.spec.study.lease_seconds
        with self.database.reading() as connection:
            return read_workers(connection, self.study_id, seconds)

    def has_reported(self, job: str) -> bool:
        """Whether a worker in this Slurm job has reported an epoch."""
        with self.database.reading() as connection:
            return has_reported(connection, self.study_id, job)
