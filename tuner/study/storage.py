"""``FencedStorage``: Optuna's storage, which writes to a trial only under a lease.

A lease (a row of ``tuner_leases``) says which worker owns a trial, until when, and under which
token; each new owner gets a higher token. Every write of Optuna's to a trial is put into one
transaction with an UPDATE of the lease that finds no row unless worker and token are still right.
So a worker that was stopped or cut off, and whose trial was taken over meanwhile, can't write to it
any more, and a trial can't come to be without a lease. This leans on Optuna's internals (its
sessions, and a few methods whose names begin with an underscore): a test holds it to that.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Row, delete, func, insert, select, update
from sqlalchemy.orm import Session

from tuner.errors import LeaseLostError
from tuner.study import tables

COUNTED = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)  # towards a study's total


class Lease(NamedTuple):
    """A worker's right to write to a trial, for ``seconds`` from its last write or renewal."""

    worker: str
    token: int
    seconds: float


class NoTrialLeftError(Exception):
    """The study's total is reached."""


class FencedStorage(RDBStorage):
    """For one thread. Trials in ``held`` may be written to; ``asker`` owns the trials it makes."""

    def __init__(self, url: str, engine_kwargs: dict[str, Any], **options: Any) -> None:
        self.held: dict[int, Lease] = {}
        self.asker: Lease | None = None
        self._put_off: dict[str, Any] | None = None
        self._last_words: dict[str, Any] = {}
        super().__init__(url, engine_kwargs, **options)

    # A trial comes to be, or leaves the queue: with its lease, and never beyond the total.

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: Session
    ) -> models.TrialModel:
        if template_trial is not None:  # into the queue
            return super()._get_prepared_new_trial(study_id, template_trial, session)
        self._admit(session, study_id)
        trial = super()._get_prepared_new_trial(study_id, None, session)
        self._lease(session, study_id, int(trial.trial_id))
        return trial

    def _pop_waiting(self, trial_id: int) -> bool:
        """Take a trial out of the queue; False where another worker was faster."""
        with self.transaction() as session:
            trials = tables.optuna_trials.c
            mine = trials.trial_id == trial_id
            study_id = session.execute(select(trials.study_id).where(mine)).scalar_one()
            # In the order in which new trials lock the rows, or the two would block each other.
            models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
            self._admit(session, study_id)
            state = session.execute(select(trials.state).where(mine).with_for_update()).scalar_one()
            if state != TrialState.WAITING:
                return False
            self._lease(session, study_id, trial_id)
            return super().set_trial_state_values(trial_id, TrialState.RUNNING)

    def _admit(self, session: Session, study_id: int) -> None:
        """Let one worker at a time past, and none once the total is reached."""
        ours, theirs = tables.studies, tables.optuna_trials.c
        # A write even on SQLite, where it alone keeps others out.
        total = session.execute(
            update(ours)
            .where(ours.c.study_id == study_id)
            .values(total=ours.c.total)
            .returning(ours.c.total)
        ).scalar_one_or_none()
        if total is None:
            raise KeyError("the study")
        counted = (theirs.study_id == study_id) & theirs.state.in_(COUNTED)
        if session.execute(select(func.count()).where(counted)).scalar_one() >= total:
            raise NoTrialLeftError

    def _lease(self, session: Session, study_id: int, trial_id: int) -> None:
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
        self.held[trial_id] = self.asker

    # What is written to a trial: under its lease.

    def fence(self, session: Session, trial_id: int, **values: Any) -> Row[Any]:
        """Renew the lease in this transaction, and set ``values`` on it; returns its epoch and a
        person's wish to prune. LeaseLostError where the lease is not, or no longer, ours."""
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
            )
            .values(expires_at=tables.db_now() + lease.seconds, **values)
            .returning(ours.c.epoch, ours.c.prune_reason)
        )
        row = session.execute(statement).one_or_none()
        if row is None:
            raise LeaseLostError("the trial's lease ran out and another worker took it over")
        return row

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

    @contextmanager
    def putting_off(self) -> Iterator[dict[str, Any]]:
        """Collect the system attributes that a pruner sets, instead of writing them."""
        self._put_off = {}
        try:
            yield self._put_off
        finally:
            self._put_off = None

    @contextmanager
    def last_words(self, attributes: dict[str, Any]) -> Iterator[None]:
        """Write ``attributes`` in the transaction that ends the trial."""
        self._last_words = attributes
        try:
            yield
        finally:
            self._last_words = {}

    def set_attributes(self, trial_id: int, attributes: dict[str, Any]) -> None:
        """Set user attributes, and system attributes (names that do not begin with tuner:)."""
        with self.transaction() as session:
            self.fence(session, trial_id)
            self._set_attributes(session, trial_id, attributes)

    def _set_attributes(self, session: Session, trial_id: int, attributes: dict[str, Any]) -> None:
        for key, value in attributes.items():
            ours = key.startswith("tuner:")
            kind = models.TrialUserAttributeModel if ours else models.TrialSystemAttributeModel
            self._set_trial_attr_without_commit(session, kind, trial_id, key, value)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        if state == TrialState.RUNNING:
            return self._pop_waiting(trial_id)
        with self.transaction() as session:
            self.fence(session, trial_id, status="done")
            self._set_attributes(session, trial_id, self._last_words)
            if not super().set_trial_state_values(trial_id, state, values):
                raise StorageInternalError("the trial's end was not stored")
            return True

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        with self.transaction() as session:
            self.fence(session, trial_id)
            super()._set_trial_param(
                trial_id, param_name, param_value_internal, distribution, previous_distribution
            )

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
        self, trial_id: int, epoch: int, row: dict[str, Any], value: float | None
    ) -> str | None:
        """Store an epoch's report, and Optuna's intermediate value if there is one, in one
        transaction; returns a person's wish to prune. Told twice, it is stored once."""
        with self.transaction() as session:
            lease = self.fence(session, trial_id)
            if lease.epoch == epoch:  # the answer to the first attempt was lost
                return _text(lease.prune_reason)
            if lease.epoch != epoch - 1:
                raise LeaseLostError(f"found epoch {lease.epoch} reported, expected {epoch - 1}")
            held = self.held[trial_id]
            about = {"worker": held.worker, "token": held.token, "reported_at": tables.db_now()}
            session.execute(insert(tables.epochs).values(trial_id=trial_id, **row, **about))
            session.execute(
                update(tables.leases)
                .where(tables.leases.c.trial_id == trial_id)
                .values(epoch=epoch, takeovers=0)
            )
            if value is not None:
                self._set_trial_intermediate_value_without_commit(session, trial_id, epoch, value)
            return _text(lease.prune_reason)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
