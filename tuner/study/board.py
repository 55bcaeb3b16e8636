"""What the Optuna Dashboard shows of a study beside its trials: notes, and plots of our own.

The dashboard keeps them as attributes of the Optuna study, under names of its own. They are written
here directly: in the transaction that ends a trial, or in one that leaves newer plots alone.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from tuner.study import tables
from tuner.study.store import StudyStore

PUBLISHED = "tuner:published"
RULE = "\n\n---\n\n"  # between a person's words and ours
_ours = tables.study_attributes


class Published(NamedTuple):
    """The plots that the dashboard shows: of how many events, how long ago, at what cost."""

    events: int
    age: float  # seconds, by the database's clock
    seconds: float  # that it took to make them


def add_note(session: Session, study_id: int, trial_id: int, body: str) -> None:
    """Note ``body`` on a trial, below what a person wrote there."""
    prefix = f"dashboard:{trial_id}:note_"
    found = _read(session.connection(), study_id, prefix)
    parts = sorted((int(key.rpartition(":")[2]), str(found[key])) for key in found if "str" in key)
    written = "".join(text for _, text in parts)
    version = int(found.get(f"{prefix}ver", 0)) + 1
    text = f"{written}{RULE}{body}" if written else body
    new: dict[str, Any] = {f"{prefix}ver": version, f"{prefix}str:0": text}
    emptied = dict.fromkeys((key for key in found if "str" in key), "")  # in pieces before
    _write(session.connection(), study_id, emptied | new)


def published(store: StudyStore) -> Published | None:
    """What is shown now; None before anything is."""
    query = select(_ours.c.value_json, tables.db_now()).where(
        _ours.c.study_id == store.study_id, _ours.c.key == PUBLISHED
    )
    with store.database.errors(), store.database.rdb.engine.connect() as connection:
        row = connection.execute(query).one_or_none()
    if row is None:
        return None
    events, at, seconds = json.loads(row[0])
    return Published(events, row[1] - at, seconds)


def publish(
    store: StudyStore, events: int, seconds: float, plots: Mapping[str, str], note: str
) -> bool:
    """Show ``plots``, which are plotly's JSON by name, unless what is shown has seen more than
    these ``events``; and the study's ``note``, unless it has one. Whether the plots are shown."""
    with store.database.errors(), store.database.rdb.engine.begin() as connection:
        # One at a time; in the order in which whoever begins a trial locks these rows.
        theirs, rows = tables.optuna_studies.c.study_id, tables.studies
        connection.execute(select(theirs).where(theirs == store.study_id).with_for_update())
        connection.execute(  # SQLite knows no such lock: there, the first write keeps others out
            update(rows).where(rows.c.study_id == store.study_id).values(total=rows.c.total)
        )
        keys = _read(connection, store.study_id, "dashboard:note_") | _read(
            connection, store.study_id, PUBLISHED
        )
        if keys.get(PUBLISHED, [0])[0] > events:
            return False
        now = connection.execute(select(tables.db_now())).scalar_one()
        new: dict[str, Any] = {f"dashboard:plot_data:{n}:0": text for n, text in plots.items()}
        new[PUBLISHED] = [events, now, seconds]
        if "dashboard:note_ver" not in keys:
            new |= {"dashboard:note_ver": 1, "dashboard:note_str:0": note}
        _write(connection, store.study_id, new)
    return True


def _read(connection: Connection, study_id: int, prefix: str) -> dict[str, Any]:
    query = select(_ours.c.key, _ours.c.value_json).where(
        _ours.c.study_id == study_id, _ours.c.key.startswith(prefix, autoescape=True)
    )
    return {key: json.loads(value) for key, value in connection.execute(query)}


def _write(connection: Connection, study_id: int, attributes: Mapping[str, Any]) -> None:
    """Write attributes over what they were; workers may have no right to delete rows."""
    rows = [
        {"study_id": study_id, "key": key, "value_json": json.dumps(value)}
        for key, value in attributes.items()
    ]
    dialect: Any = {"sqlite": sqlite, "postgresql": postgresql}[connection.dialect.name]
    statement = dialect.insert(_ours)
    keys, value = [_ours.c.study_id, _ours.c.key], {"value_json": statement.excluded.value_json}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=value), rows)
