"""Names of studies and numbers of trials, read quickly for shell completion."""

from typing import Any

from optuna.trial import TrialState
from sqlalchemy import Select, select

from tuner.study import tables
from tuner.study.connections import Address

BEGUN, QUEUED = "begun", "queued"  # trials to list
_studies, _trials = tables.optuna_studies.c, tables.optuna_trials.c


def list_studies(url: str) -> list[str]:
    """The names of the studies in a database. StorageError or InputError if it can't be read."""
    ours = tables.studies.c
    query = select(_studies.study_name).join(tables.studies, ours.study_id == _studies.study_id)
    return _read(url, query.order_by(_studies.study_name))


def list_trials(url: str, study: str, which: str) -> list[str]:
    """The numbers of a study's trials that have ``BEGUN`` or are ``QUEUED``; errors as above."""
    waiting = _trials.state == TrialState.WAITING
    query = select(_trials.number)
    query = query.join(tables.optuna_studies, _studies.study_id == _trials.study_id)
    query = query.where(_studies.study_name == study, waiting if which == QUEUED else ~waiting)
    return _read(url, query.order_by(_trials.number))


def _read(url: str, query: Select[Any]) -> list[str]:
    address = Address(url)
    address.check_exists()
    with address.connected() as connection:
        return list(map(str, connection.execute(query).scalars()))
