"""Putting studies into a database, and listing those that are there."""

import uuid

import optuna
from optuna.trial import TrialState
from sqlalchemy import delete, insert

from tuner.combinations import kind_of
from tuner.conditions import named
from tuner.errors import InputError
from tuner.spec import OBJECTIVES, StudySpec
from tuner.specfile import differences
from tuner.study import tables
from tuner.study.database import TOKEN, Database
from tuner.study.search import quietly
from tuner.study.store import BASELINE, StudyStore, StudySummary
from tuner.version import __version__


def create_study(database: Database, spec: StudySpec) -> StudyStore:
    """The study, added with its baselines queued. One that is there already must be equal, or
    have no trial yet: then it is made anew, for its file may have been wrong."""
    with database.address.alone():
        return _create(database, spec)


def _create(database: Database, spec: StudySpec) -> StudyStore:
    name = spec.study.name
    if name in database.study_names():
        store = StudyStore(database, name)
        if store.trials() or not differences(store.spec, spec):
            _check_same(store, spec)
            return store
    with database.errors():
        study = _new_optuna_study(database, name, spec.metrics.objective)
        for baseline in spec.baseline:
            point = {key: kind_of(key).check(value) for key, value in baseline.items()}
            study.enqueue_trial(named(spec.trial, point), user_attrs={BASELINE: True})
        # Our row comes last: without it the study is taken for unfinished, and made anew.
        with database.rdb.engine.begin() as connection:
            ours = tables.studies
            # SQLite gives the ids of deleted studies to new ones: what another program left.
            for table in (tables.leases, tables.workers, ours):
                connection.execute(delete(table).where(table.c.study_id == study._study_id))
            connection.execute(
                insert(ours).values(
                    study_id=study._study_id,
                    token=study.user_attrs[TOKEN],
                    spec=spec.model_dump_json(),
                    total=spec.study.trials,
                    tuner_version=__version__,
                    created_at=tables.db_now(),
                )
            )
    return StudyStore(database, name)


def _new_optuna_study(database: Database, name: str, objective: str) -> optuna.Study:
    """An empty study marked with a token of ours; InputError where the name is another's."""
    try:
        study = optuna.create_study(storage=database.rdb, study_name=name, direction="minimize")
    except optuna.exceptions.DuplicatedStudyError:
        found = optuna.load_study(storage=database.rdb, study_name=name)
        begun = [trial for trial in found.get_trials() if trial.state != TrialState.WAITING]
        if begun or TOKEN not in found.user_attrs:
            raise InputError(
                f"study {name!r}: found a study of that name in {database.place} that tuner did "
                "not make, expected another name"
            ) from None
        optuna.delete_study(storage=database.rdb, study_name=name)
        return _new_optuna_study(database, name, objective)
    study.set_user_attr(TOKEN, uuid.uuid4().hex)
    quietly(study.set_metric_names, [OBJECTIVES[objective]])
    return study


def _check_same(store: StudyStore, spec: StudySpec) -> None:
    lines = differences(store.spec, spec)
    if lines:
        raise InputError(
            f"study {store.name!r} is in {store.database.place} already, with another study file "
            "(expected the same; choose another name, or delete the study):\n  "
            + "\n  ".join(lines)
        )


def summaries(database: Database) -> list[StudySummary]:
    """Every study of ours in the database."""
    return [StudyStore(database, name).summary() for name in database.study_names()]
