"""``FencedStorage``: Optuna's storage, which writes to a trial only under a valid lease.

A lease (a row of ``tuner_leases``) states which worker owns a trial, until when, and with which
token; every new owner gets a higher token. Each of Optuna's writes to a trial shares a transaction
with an UPDATE of the lease, which matches no row unless worker and token are still right. So a
worker that was suspended or cut off can't write to a trial that has been taken over, and no trial
can be created without a lease. This overrides private methods of Optuna's storage; a test checks
that they exist and are still called.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import ColumnElement, Row, func, insert, select, update
from sqlalchemy.orm import Session

from tuner.errors import LeaseLostError
from tuner.phases import PhaseClock
from tuner.study import leases, rows, tables
from tuner.study.confirmation import Wanted
from tuner.study.leases import Lease
from tuner.study.optuna_internals import models
from tuner.study.queue import has_room, start_queued, utc_now
from tuner.study.records import CONFIRMS, Confirms
from tuner.study.unfenced_storage import UnfencedStorage


class Choice(NamedTuple):
    """A parameter value of a trial, as Optuna stores it."""

    name: str
    internal_value: float
    distribution: BaseDistribution

    @property
    def value(self) -> Any:
        """The value as Optuna reads it back."""
        return self.distribution.to_external_repr(self.internal_value)


class FencedStorage(UnfencedStorage):
    """Optuna's storage for one worker. Not thread-safe.

    Only trials in ``held`` can be written to. New trials are created under ``new_lease``.
    """

    def __init__(self, url: str, engine_kwargs: dict[str, Any], **options: Any) -> None:
        self.held: dict[int, Lease] = {}
        self.new_lease: Lease | None = None  # set while a worker is joined
        self.study: tables.StudyKey | None = None  # the worker's
        self.clock = PhaseClock()  # the worker's; each renewal stores the trial's seconds
        self._deferred: dict[str, Any] | None = None
        self._collected: list[Choice] | None = None
        super().__init__(url, engine_kwargs, **options)

    # Beginning trials: always with a lease, and never beyond the study's total

    def begin_trial(self) -> int | None:
        """Start the first queued trial, or a new one, under ``new_lease``; returns its id, or None
        if the study's total is reached. If the answer is lost, the lease shows which trial began.
        """
        study, lease = self.study, self.new_lease
        assert lease is not None, "only a worker that has joined begins trials"
        assert study is not None
        study_id = study.study_id
        with self.transaction() as session:
            # Locked first, as by Optuna's enqueue: another order could deadlock.
            models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
            if not has_room(session, study):
                return None
            trial_id = start_queued(session, study_id)
            if trial_id is None:
                made = self._get_prepared_new_trial(study_id, None, session)
                trial_id = int(made.trial_id)
            leases.create(session, study_id, trial_id, lease)
        self.held[trial_id] = lease
        return trial_id

    def begin_confirmation(self, original: FrozenTrial, wanted: Wanted) -> int | None:
        """Start a trial with the parameters of ``original``; returns its id, or None if another
        worker has started it."""
        study, lease, our = self.study, self.new_lease, tables.leases.c
        assert study is not None
        assert lease is not None
        mark = Confirms(wanted.trial, wanted.seed)
        template = create_trial(
            state=TrialState.RUNNING,
            params=original.params,
            distributions=original.distributions,
            user_attrs={CONFIRMS: mark._asdict()},
        )
        template.datetime_start = utc_now()
        same = (our.confirms == mark.trial) & (our.confirm_seed == mark.seed)
        begun = select(func.count()).where(our.study_id == study.study_id, same)
        with self.transaction() as session:
            models.StudyModel.find_or_raise_by_id(study.study_id, session, for_update=True)
            study.lock(session)
            if session.execute(begun).scalar_one() != wanted.attempts:
                return None
            made = self._get_prepared_new_trial(study.study_id, template, session)
            trial_id = int(made.trial_id)
            leases.create(session, study.study_id, trial_id, lease, mark)
        self.held[trial_id] = lease
        return trial_id

    def _create_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None = None
    ) -> FrozenTrial:
        """Queue a trial. Running trials are made by ``begin_trial`` only."""
        assert template_trial is not None, "a running trial needs a lease: see begin_trial"
        return super()._create_new_trial(study_id, template_trial)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        # For samplers that keep counters in the study's attributes.
        with self.transaction() as session:
            if self.study is not None:
                self.study.lock(session)
            super().set_study_system_attr(study_id, key, value)

    # The fence

    @contextmanager
    def fenced(self, trial_id: int, **values: Any) -> Iterator[Session]:
        """A transaction that begins with ``fence``."""
        with self.transaction() as session:
            self.fence(session, trial_id, **values)
            yield session

    def fence(self, session: Session, trial_id: int, **values: Any) -> Row[Any]:
        """Renew the lease in this transaction and set ``values`` on it; returns its epoch and
        prune_reason. LeaseLostError if this worker no longer holds it."""
        row = self._renew(session, trial_id, values)
        if row is None:
            raise LeaseLostError("the trial's lease ran out and another worker took it over")
        return row

    def _renew(
        self,
        session: Session,
        trial_id: int,
        values: dict[str, Any],
        *conditions: ColumnElement[bool],
    ) -> Row[Any] | None:
        # At most once per transaction: a second update makes Postgres check the row's foreign keys,
        # which waits for any worker that is beginning a trial of the study.
        lease, columns = self.held.get(trial_id), tables.leases.c
        if self.study is None or lease is None:
            raise LeaseLostError("this worker does not own the trial that it tried to write to")
        spent = tables.phase_values(self.clock.of_trial())
        statement = (
            update(tables.leases)
            .where(*lease.matches(trial_id), self.study.exists(), *conditions)
            .values(expires_at=tables.db_now() + lease.seconds, **values, **spent)
            .returning(columns.epoch, columns.prune_reason)
        )
        return session.execute(statement).one_or_none()

    def check_trial_is_updatable(self, trial_id: int, trial_state: TrialState) -> None:
        # Optuna's own method reads the trial for its message, which would commit the writes so far.
        if trial_state.is_finished():
            raise UpdateFinishedTrialError("another process has ended the trial")

    # Writing parameters and attributes

    @contextmanager
    def deferred_attributes(self) -> Iterator[dict[str, Any]]:
        """Collect the system attributes that a pruner sets, instead of writing them."""
        self._deferred = {}
        try:
            yield self._deferred
        finally:
            self._deferred = None

    @contextmanager
    def collected_params(self) -> Iterator[list[Choice]]:
        """Collect the parameters that a sampler chooses, instead of writing them.

        Parameters are stored all at once or not at all: a successor that resumed midway would draw
        different values.
        """
        self._collected = []
        try:
            yield self._collected
        finally:
            self._collected = None

    def write_params(
        self, trial_id: int, choices: Sequence[Choice], attributes: dict[str, Any]
    ) -> None:
        """Store chosen parameters and attributes in one transaction."""
        with self.fenced(trial_id) as session:
            for choice in choices:
                # Optuna compares the distribution with the previous one; with itself, so that a
                # different one in another program's trial is no reason to refuse this value.
                self._set_trial_param_without_commit(
                    session, trial_id, *choice, previous_distribution=choice.distribution
                )
            self._set_attributes(session, trial_id, attributes)

    def _set_attributes(
        self, session: Session, trial_id: int, attributes: Mapping[str, Any]
    ) -> None:
        """Store user attributes (ours, ``tuner:...``) and system attributes (all others)."""
        for key, value in attributes.items():
            ours = key.startswith("tuner:")
            model = models.TrialUserAttributeModel if ours else models.TrialSystemAttributeModel
            stored = rows.storable(value)
            self._set_trial_attr_without_commit(session, model, trial_id, key, stored)

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        choice = Choice(param_name, param_value_internal, distribution)
        if self._collected is not None:
            self._collected.append(choice)
        else:
            self.write_params(trial_id, [choice], {})

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        with self.fenced(trial_id):
            super().set_trial_intermediate_value(trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        with self.fenced(trial_id):
            super().set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        if self._deferred is not None:
            self._deferred[key] = value
            return
        with self.fenced(trial_id):
            super().set_trial_system_attr(trial_id, key, value)

    # Reporting and ending

    def record_epoch(
        self,
        trial_id: int,
        epoch: int,
        row: dict[str, Any],
        value: float | None,
        attributes: Mapping[str, Any],
    ) -> str | None:
        """Store an epoch's report, Optuna's intermediate value if any, and attributes in one
        transaction; returns the reason of a request to prune, if any. Idempotent."""
        new, previous = {"epoch": epoch, "takeovers": 0}, tables.leases.c.epoch == epoch - 1
        with self.transaction() as session:
            lease = self._renew(session, trial_id, new, previous)
            if lease is not None:
                owner = self.held[trial_id]
                by = {"worker": owner.worker, "token": owner.token, "reported_at": tables.db_now()}
                row = row | {"own": json.dumps(row["own"]) if row.get("own") else None}
                session.execute(insert(tables.epochs).values(trial_id=trial_id, **row, **by))
                if value is None:
                    trials = tables.optuna_trials.c
                    query = select(trials.state).where(trials.trial_id == trial_id)
                    self.check_trial_is_updatable(trial_id, session.execute(query).scalar_one())
                else:
                    self._set_trial_intermediate_value_without_commit(
                        session, trial_id, epoch, value
                    )
                self._set_attributes(session, trial_id, attributes)
            else:  # stored already, if the answer to an earlier attempt was lost
                lease = self.fence(session, trial_id)
                if lease.epoch != epoch:
                    raise LeaseLostError(
                        f"epoch {epoch} can't be stored: the last one stored is {lease.epoch}"
                    )
            return None if lease.prune_reason is None else str(lease.prune_reason)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        self.end_trial(trial_id, state, values, {})
        return True

    def end_trial(
        self,
        trial_id: int,
        state: TrialState,
        values: Sequence[float] | None,
        attributes: dict[str, Any],
        also: Callable[[Session], None] | None = None,
    ) -> None:
        """End the trial and its lease, with these attributes.

        ``also`` may write to the study in the same transaction. It runs first, because every
        transaction that locks both locks the study before the lease.
        """
        assert state.is_finished(), "queued trials are started by begin_trial"
        with self.transaction() as session:
            if also is not None:
                also(session)
            self.fence(session, trial_id, status="done", stopped_at=tables.db_now())
            self._set_attributes(session, trial_id, attributes)
            if not super().set_trial_state_values(trial_id, state, values):
                raise StorageInternalError("the trial's end was not stored")

    def fail_trial(self, trial_id: int, reasons: Mapping[str, str]) -> None:
        """Fail a trial that can't be run, and may not even be readable, with these attributes."""
        trials, now = tables.optuna_trials, utc_now()
        running = (trials.c.trial_id == trial_id) & (trials.c.state == TrialState.RUNNING)
        ended = {"state": TrialState.FAIL, "datetime_start": now, "datetime_complete": now}
        with self.fenced(trial_id, status="done", stopped_at=tables.db_now()) as session:
            session.execute(update(trials).where(running).values(ended))
            owners = tables.trial_attributes.c.trial_id
            tables.write_attributes(session, owners, trial_id, reasons)
