"""Create studies in a database, and list them."""

import uuid
from collections.abc import Callable

import optuna
from optuna.trial import TrialState
from sqlalchemy import delete, insert

from tuner.errors import InputError
from tuner.spec.branches import optuna_params
from tuner.spec.loading import differences
from tuner.spec.study import StudySpec
from tuner.spec.trial import kind_of
from tuner.study import tables
from tuner.study.database import Database
from tuner.study.edits import is_version_of
from tuner.study.records import BASELINE, WARM_START, StudySummary
from tuner.study.samplers import quietly
from tuner.study.store import StudyStore
from tuner.study.study_row import directions_of
from tuner.study.tables import TOKEN
from tuner.study.warm_start import warm_start
from tuner.version import __version__


def create_study(
    database: Database, spec: StudySpec, announce: Callable[[str], None] = lambda text: None
) -> StudyStore:
    """Create a study with its baselines and warm start queued, unless the database has it already.

    A different study of that name is replaced if none of its trials has begun: its file may have
    been wrong. InputError otherwise. ``announce`` receives a line on the warm start.
    """
    with database.address.exclusive():
        return _create(database, spec, announce)


def _create(database: Database, spec: StudySpec, announce: Callable[[str], None]) -> StudyStore:
    name = spec.study.name
    if name in database.study_names():
        store = StudyStore(database, name)
        begun, lines = store.trials(), differences(store.spec, spec)
        if is_version_of(store, spec):
            return store
        if begun:
            raise InputError(
                f"study {name!r} is in {database.place} already, with a different study file; "
                "choose another name, or delete the study; differences:\n  " + "\n  ".join(lines)
            )
    warm = warm_start(database, spec)
    with database.errors():
        token = uuid.uuid4().hex
        study = _new_optuna_study(database, spec, token)
        for baseline in spec.baseline:
            point = {key: kind_of(key).check(value) for key, value in baseline.items()}
            study.enqueue_trial(optuna_params(spec.trial, point), user_attrs={BASELINE: True})
        for queued in warm.queued:
            study.enqueue_trial(queued.params, user_attrs={WARM_START: queued.origin})
        # Our row comes last: a study without it counts as incomplete and is created again.
        with database.rdb.engine.begin() as connection:
            ours = tables.studies
            # SQLite reuses ids: another program may have deleted a study without our rows.
            for table in (tables.leases, tables.workers, tables.edits, ours):
                connection.execute(delete(table).where(table.c.study_id == study._study_id))
            connection.execute(
                insert(ours).values(
                    study_id=study._study_id,
                    token=token,
                    spec=spec.model_dump_json(),
                    total=spec.study.trials,
                    tuner_version=__version__,
                    created_at=tables.db_now(),
                )
            )
    if warm.message:
        announce(warm.message)
    return StudyStore(database, name)


def _new_optuna_study(database: Database, spec: StudySpec, token: str) -> optuna.Study:
    """Create an empty study with our token; InputError if the name is another program's."""
    name, directions = spec.study.name, directions_of(spec.metrics.names)
    try:
        study = optuna.create_study(storage=database.rdb, study_name=name, directions=directions)
    except optuna.exceptions.DuplicatedStudyError:
        found = optuna.load_study(storage=database.rdb, study_name=name)
        begun = [trial for trial in found.get_trials() if trial.state != TrialState.WAITING]
        if begun or TOKEN not in found.user_attrs:
            raise InputError(
                f"study {name!r}: {database.place} has a study of that name that tuner did not "
                "create; choose another name"
            ) from None
        optuna.delete_study(storage=database.rdb, study_name=name)
        return _new_optuna_study(database, spec, token)
    study.set_user_attr(TOKEN, token)
    quietly(study.set_metric_names, spec.metrics.labels)
    return study


def study_summaries(database: Database, announce: Callable[[str], None]) -> list[StudySummary]:
    """Summarise every study created by tuner; ``announce`` receives a line per unreadable one."""
    found = []
    for name in database.study_names():
        try:
            found.append(StudyStore(database, name).summary())
        except InputError as error:
            announce(str(error))
    return found
