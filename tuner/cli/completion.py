"""Shell completion of what the database knows: names of studies, numbers of trials.

Never prints an error, never creates a database, and gives up after a second.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import typer
from optuna.trial import TrialState
from sqlalchemy import Connection, Select, select

from tuner.environment import default_storage
from tuner.study import tables
from tuner.study.connections import Address

SECONDS = 1.0  # for the database to answer
MOST = 200  # values to choose from

_studies, _trials = tables.optuna_studies.c, tables.optuna_trials.c
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
BEGUN = (*ENDED, TrialState.RUNNING)


def study_names(context: typer.Context, incomplete: str) -> list[str]:
    """Names of studies that begin with ``incomplete``."""
    ours = tables.studies.c
    query = select(_studies.study_name).join(tables.studies, ours.study_id == _studies.study_id)
    return _values(context, query.order_by(_studies.study_name), incomplete)


def trial_numbers(*states: TrialState) -> Callable[[typer.Context, str], list[str]]:
    """A completion of the numbers of the named study's trials in these states."""

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        name = context.params.get("name")
        query = select(_trials.number).join(
            tables.optuna_studies, _studies.study_id == _trials.study_id
        )
        query = query.where(_studies.study_name == name, _trials.state.in_(states))
        return _values(context, query.order_by(_trials.number), incomplete)

    return complete


def _values(context: typer.Context, query: Select[Any], incomplete: str) -> list[str]:
    """The values of a query's only column that begin with ``incomplete``; none if the database does
    not answer in time."""
    storage, found = context.params.get("storage"), list[str]()

    def read() -> None:
        with suppress(Exception):  # any: a shell would show it amid the command line
            address = Address(storage or default_storage())
            address.check_exists()
            with address.connected() as connection:
                found.extend(_matching(connection, query, incomplete))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return list(found)


def _matching(connection: Connection, query: Select[Any], incomplete: str) -> list[str]:
    values = map(str, connection.execute(query).scalars())
    return [value for value in values if value.startswith(incomplete)][:MOST]
