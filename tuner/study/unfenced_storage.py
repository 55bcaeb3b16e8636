"""``UnfencedStorage``: Optuna's storage without leases, which reads around damaged rows."""

from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from tuner.study import rows, tables
from tuner.study.optuna_internals import FrozenStudy, models


class TrialLocation(NamedTuple):
    """The study that a trial belongs to, its number there, and its state."""

    study_id: int
    number: int
    state: TrialState


class UnfencedStorage(RDBStorage):
    """Optuna's storage for programs that hold no leases, such as the dashboard.

    Optuna fails at the first unreadable value. Here the trial is read without that value, and a
    trial whose own row is unreadable is left out.
    """

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Execute statements in one transaction. Optuna's own transactions share the thread's
        session, so the first one that ends within the block ends both."""
        session = self.scoped_session()
        try:
            yield session
            session.commit()
        except BaseException:
            session.rollback()
            raise
        finally:
            session.close()

    def locate_trial(self, trial_id: int) -> TrialLocation | None:
        """Find a trial by its id; None if there is no such trial."""
        trials = tables.optuna_trials.c
        query = select(trials.study_id, trials.number, trials.state)
        with self.engine.connect() as connection:
            row = connection.execute(query.where(trials.trial_id == trial_id)).one_or_none()
        return None if row is None else TrialLocation(*row)

    def delete_study(self, study_id: int) -> None:
        """Delete a study with all its rows, whatever its workers are doing.

        Optuna's own method silently leaves the study in place if a new row appears meanwhile, so
        the workers are locked out first.
        """
        leases = tables.leases
        with self.transaction() as session:
            # Locks are taken in the same order as by a heartbeat and by begin_trial.
            session.execute(delete(tables.workers).where(tables.workers.c.study_id == study_id))
            study = models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
            session.execute(delete(leases).where(leases.c.study_id == study_id))
            session.delete(study)

    def _build_frozen_trial_from_trial_model(self, trial: models.TrialModel) -> FrozenTrial:
        with rows.skipping_unreadable("trial", {}):
            built = super()._build_frozen_trial_from_trial_model(trial)
            if rows.is_sound(built):
                return built
        return rows.readable(trial)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._study_attributes(models.StudyUserAttributeModel, study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._study_attributes(models.StudySystemAttributeModel, study_id)

    def _study_attributes(self, model: Any, study_id: int) -> dict[str, Any]:
        query = select(model.key, model.value_json).where(model.study_id == study_id)
        with self.transaction() as session:
            models.StudyModel.find_or_raise_by_id(study_id, session)
            return rows.attributes(session.execute(query))

    def get_all_studies(self) -> list[FrozenStudy]:
        try:
            return super().get_all_studies()
        except (LookupError, RecursionError, TypeError, ValueError):
            query = select(models.StudyModel.study_id, models.StudyModel.study_name)
            with self.transaction() as session:
                known = session.execute(query).all()
        studies = []
        for study_id, name in known:
            with suppress(LookupError, TypeError, ValueError):  # if its directions can't be read
                found = self.get_study_directions(study_id)
                read = self.get_study_user_attrs(study_id), self.get_study_system_attrs(study_id)
                studies.append(FrozenStudy(name, None, *read, study_id, directions=found))
        return studies

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        try:
            return super()._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)
        except (LookupError, TypeError, ValueError):
            ids = tables.optuna_trials.c
            wanted = or_(ids.trial_id.in_(included_trial_ids), ids.trial_id > trial_id_greater_than)
            query = select(ids.trial_id).where(ids.study_id == study_id, wanted)
            with self.transaction() as session:
                models.StudyModel.find_or_raise_by_id(study_id, session)
                found = session.execute(query.order_by(ids.trial_id)).scalars().all()
        trials = []
        for trial_id in found:
            with suppress(LookupError, TypeError, ValueError):
                trial = self.get_trial(trial_id)
                if states is None or trial.state in states:
                    trials.append(trial)
        return trials
