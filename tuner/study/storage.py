"""``FencedStorage``: Optuna's storage, which writes to a trial only under a lease.

A lease (a row of ``tuner_leases``) says which worker owns a trial, until when, and under which
token; each new owner gets a higher token. Every write of Optuna's to a trial is put into one
transaction with an UPDATE of the lease that finds no row unless worker and token are still right.
So a worker that was stopped or cut off, and whose trial was taken over meanwhile, can't write to it
any more, and a trial can't come to be without a lease. This leans on Optuna's internals (its
sessions, and a few methods whose names begin with an underscore): a test holds it to that.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import ColumnElement, Row, delete, func, insert, select, update
from sqlalchemy.orm import Session

from tuner.errors import LeaseLostError
from tuner.study import tables

COUNTED = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)  # towards a study's total


class Lease(NamedTuple):
    """A worker's right to write to a trial, for ``seconds`` from its last write or renewal."""

    worker: str
    token: int
    seconds: float


class Choice(NamedTuple):
    """A parameter of a trial's, as Optuna stores it."""

    name: str
    internal_value: float
    distribution: BaseDistribution
    previous_distribution: BaseDistribution | None  # of the same parameter in other trials

    @property
    def value(self) -> Any:
        """As Optuna will read it."""
        return self.distribution.to_external_repr(self.internal_value)


class OpenStorage(RDBStorage):
    """For programs of others, the dashboard's above all: they write to trials as they please."""

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """What is executed in it becomes true at once, or not at all. Ends where Optuna's own
        transactions inside of it end: they share the thread's session."""
        session = self.scoped_session()
        try:
            yield session
            session.commit()
        except BaseException:
            session.rollback()
            raise
        finally:
            session.close()

    # A study goes, whatever its workers are at.

    def delete_study(self, study_id: int) -> None:
        """With all that hangs on it. Optuna's own leaves a study in place, and says nothing, where
        a row comes to be that it had not seen; so the workers are shut out first."""
        ours, theirs = tables.leases, models.StudyModel
        with self.transaction() as session:
            # In the order in which a heartbeat and begin_trial lock them.
            session.execute(delete(tables.workers).where(tables.workers.c.study_id == study_id))
            study = theirs.find_or_raise_by_id(study_id, session, for_update=True)
            session.execute(delete(ours).where(ours.c.study_id == study_id))
            session.delete(study)


class FencedStorage(OpenStorage):
    """For one thread. Trials in ``held`` may be written to; ``asker`` owns the trials it makes."""

    def __init__(self, url: str, engine_kwargs: dict[str, Any], **options: Any) -> None:
        self.held: dict[int, Lease] = {}
        self.asker: Lease | None = None
        self._put_off: dict[str, Any] | None = None
        self._choices: list[Choice] | None = None
        super().__init__(url, engine_kwargs, **options)

    # A trial comes to be, or leaves the queue: with its lease, and never beyond the total.

    def begin_trial(self, study_id: int) -> int | None:
        """Take the first trial of the queue, or make a new one, in ``asker``'s name; None once the
        study's total is reached. Where the answer is lost, the lease tells what came of it."""
        with self.transaction() as session:
            # First this lock, as in Optuna's enqueue, or the two would block each other.
            models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
            if not self._has_room(session, study_id):
                return None
            trial = self._pop(session, study_id)
            trial = trial or self._get_prepared_new_trial(study_id, None, session)
            trial_id = int(trial.trial_id)
            lease = self._lease(session, study_id, trial_id)
        self.held[trial_id] = lease
        return trial_id

    def _has_room(self, session: Session, study_id: int) -> bool:
        """Let one worker at a time past; whether the total is not reached yet."""
        ours, theirs = tables.studies, tables.optuna_trials.c
        counted = (theirs.study_id == study_id) & theirs.state.in_(COUNTED)
        # A write even on SQLite, where it alone keeps others out.
        row = session.execute(
            update(ours)
            .where(ours.c.study_id == study_id)
            .values(total=ours.c.total)
            .returning(ours.c.total, select(func.count()).where(counted).scalar_subquery())
        ).one_or_none()
        if row is None:
            raise KeyError("the study")
        total, found = row
        return bool(found < total)

    def _pop(self, session: Session, study_id: int) -> models.TrialModel | None:
        trials = models.TrialModel
        trial: models.TrialModel | None = (
            session.query(trials)
            .filter(trials.study_id == study_id, trials.state == TrialState.WAITING)
            .order_by(trials.number)
            .limit(1)
            .with_for_update(key_share=True, skip_locked=True)
            .one_or_none()
        )
        if trial is not None:
            trial.state, trial.datetime_start = TrialState.RUNNING, datetime.now()
            session.flush()
        return trial

    def _create_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None = None
    ) -> FrozenTrial:
        """Into the queue."""
        assert template_trial is not None, "a trial that runs has a lease: see begin_trial"
        return super()._create_new_trial(study_id, template_trial)

    def _lease(self, session: Session, study_id: int, trial_id: int) -> Lease:
        assert self.asker is not None, "a trial is asked for by a worker that has joined"
        if self.engine.dialect.name == "sqlite":
            # It gives the ids of deleted trials to new ones; programs other than ours delete
            # without the rows that hang on them.
            for table in (tables.leases, tables.epochs):
                session.execute(delete(table).where(table.c.trial_id == trial_id))
        session.execute(
            insert(tables.leases).values(
                trial_id=trial_id,
                study_id=study_id,
                status="held",
                worker=self.asker.worker,
                token=self.asker.token,
                expires_at=tables.db_now() + self.asker.seconds,
                epoch=0,
                takeovers=0,
            )
        )
        return self.asker

    # What is written to a trial: under its lease.

    def fence(self, session: Session, trial_id: int, **values: Any) -> Row[Any]:
        """Renew the lease in this transaction, and set ``values`` on it; returns its epoch and a
        person's wish to prune. LeaseLostError where the lease is not, or no longer, ours."""
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
        # Once in a transaction, at most: Postgres checks the foreign keys of a row that is changed
        # again, which would wait for whoever begins a trial of the study.
        ours, lease = tables.leases, self.held.get(trial_id)
        if lease is None:
            raise LeaseLostError("found a write to a trial that this worker does not own")
        statement = (
            update(ours)
            .where(
                ours.c.trial_id == trial_id,
                ours.c.worker == lease.worker,
                ours.c.token == lease.token,
                ours.c.status == "held",
                *conditions,
            )
            .values(expires_at=tables.db_now() + lease.seconds, **values)
            .returning(ours.c.epoch, ours.c.prune_reason)
        )
        return session.execute(statement).one_or_none()

    def check_trial_is_updatable(self, trial_id: int, trial_state: TrialState) -> None:
        # Optuna reads the trial for its message, and so commits what was written before the check.
        if trial_state.is_finished():
            raise UpdateFinishedTrialError("the trial has been ended from elsewhere")

    @contextmanager
    def putting_off(self) -> Iterator[dict[str, Any]]:
        """Collect the system attributes that a pruner sets, instead of writing them."""
        self._put_off = {}
        try:
            yield self._put_off
        finally:
            self._put_off = None

    @contextmanager
    def choosing(self) -> Iterator[list[Choice]]:
        """Collect the parameters that a sampler chooses, instead of writing them. One that dies
        half-way leaves none: who chooses the rest from the start of its random numbers would
        choose other ones."""
        self._choices = []
        try:
            yield self._choices
        finally:
            self._choices = None

    def _set_attributes(
        self, session: Session, trial_id: int, attributes: Mapping[str, Any]
    ) -> None:
        for key, value in attributes.items():
            ours = key.startswith("tuner:")
            kind = models.TrialUserAttributeModel if ours else models.TrialSystemAttributeModel
            self._set_trial_attr_without_commit(session, kind, trial_id, key, value)

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
        """End the trial, and its lease, with these attributes as its last, and with what is
        ``also`` written in the same transaction: to the study, whose row is locked before leases
        wherever both are."""
        assert state.is_finished(), "trials leave the queue by begin_trial"
        with self.transaction() as session:
            if also is not None:
                also(session)
            self.fence(session, trial_id, status="done")
            self._set_attributes(session, trial_id, attributes)
            if not super().set_trial_state_values(trial_id, state, values):
                raise StorageInternalError("the trial's end was not stored")

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        choice = Choice(param_name, param_value_internal, distribution, previous_distribution)
        if self._choices is not None:
            self._choices.append(choice)
        else:
            self.settle(trial_id, [choice], {})

    def settle(self, trial_id: int, choices: Sequence[Choice], attributes: dict[str, Any]) -> None:
        """Write parameters that were chosen, and attributes, at once."""
        with self.transaction() as session:
            self.fence(session, trial_id)
            for choice in choices:
                self._set_trial_param_without_commit(session, trial_id, *choice)
            self._set_attributes(session, trial_id, attributes)

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        with self.transaction() as session:
            self.fence(session, trial_id)
            super().set_trial_intermediate_value(trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        with self.transaction() as session:
            self.fence(session, trial_id)
            super().set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        if self._put_off is not None:
            self._put_off[key] = value
            return
        with self.transaction() as session:
            self.fence(session, trial_id)
            super().set_trial_system_attr(trial_id, key, value)

    def record_epoch(
        self,
        trial_id: int,
        epoch: int,
        row: dict[str, Any],
        value: float | None,
        attributes: Mapping[str, Any],
    ) -> str | None:
        """Store an epoch's report, Optuna's intermediate value if there is one, and attributes, in
        one transaction; returns a person's wish to prune. Told twice, it is stored once."""
        new, previous = {"epoch": epoch, "takeovers": 0}, tables.leases.c.epoch == epoch - 1
        with self.transaction() as session:
            lease = self._renew(session, trial_id, new, previous)
            if lease is None:
                lease = self.fence(session, trial_id)
                if lease.epoch != epoch:
                    expected = f"expected {epoch - 1}"
                    raise LeaseLostError(f"found epoch {lease.epoch} reported, {expected}")
                return _text(lease.prune_reason)  # the answer to the first attempt was lost
            held = self.held[trial_id]
            about = {"worker": held.worker, "token": held.token, "reported_at": tables.db_now()}
            session.execute(insert(tables.epochs).values(trial_id=trial_id, **row, **about))
            if value is None:
                trials = tables.optuna_trials.c
                query = select(trials.state).where(trials.trial_id == trial_id)
                self.check_trial_is_updatable(trial_id, session.execute(query).scalar_one())
            else:
                self._set_trial_intermediate_value_without_commit(session, trial_id, epoch, value)
            self._set_attributes(session, trial_id, attributes)
            return _text(lease.prune_reason)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
