"""Notes and plots that the Optuna Dashboard shows in addition to a study's trials.

The dashboard reads them from attributes of the Optuna study. They are written here directly: in the
transaction that ends a trial, or in one that never replaces newer plots.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, select
from sqlalchemy.orm import Session

from tuner.study import rows, tables
from tuner.study.store import StudyStore

PUBLISHED = "tuner:published"
RULE = "\n\n---\n\n"  # between a user's text and ours
_ours = tables.study_attributes


class Published(NamedTuple):
    """The plots that the dashboard shows: the events they cover, their age and their cost."""

    events: int
    age: float  # seconds, by the database's clock
    seconds: float  # taken to make them


def add_note(session: Session, study_id: int, trial_id: int, body: str) -> None:
    """Add ``body`` to a trial's note, below any text that a user wrote there."""
    prefix = f"dashboard:{trial_id}:note_"
    found = _read(session.connection(), study_id, prefix)
    pieces = re.compile(re.escape(f"{prefix}str:") + "([0-9]{1,9})")
    parts = sorted((int(m[1]), str(found[key])) for key in found if (m := pieces.fullmatch(key)))
    written = "".join(text for _, text in parts)
    version = (rows.whole(found.get(f"{prefix}ver")) or 0) + 1
    text = f"{written}{RULE}{body}" if written else body
    new: dict[str, Any] = {f"{prefix}ver": version, f"{prefix}str:0": text}
    emptied = dict.fromkeys(filter(pieces.fullmatch, found), "")  # the pieces of a longer note
    tables.write_attributes(session, _ours.c.study_id, study_id, emptied | new)


def published(store: StudyStore) -> Published | None:
    """The plots that are shown now; None before there are any."""
    query = select(_ours.c.value_json, tables.db_now()).where(
        _ours.c.study_id == store.study_id, _ours.c.key == PUBLISHED
    )
    with store.database.reading() as connection:
        row = connection.execute(query).one_or_none()
    return None if row is None else _published(rows.attribute(row[0]), row[1])


def _published(value: Any, now: float = 0.0) -> Published | None:
    """Parse the attribute; None if another program wrote something else."""
    if not isinstance(value, list) or len(value) != 3:
        return None
    events, at, seconds = rows.whole(value[0]), rows.finite(value[1]), rows.finite(value[2])
    if events is None or at is None or seconds is None:
        return None
    return Published(events, now - at, seconds)


def publish(
    store: StudyStore,
    events: int,
    seconds: float,
    plots: Mapping[str, str],
    note: str,
    lead: Sequence[str] = (),
) -> bool:
    """Show ``plots``, plotly JSON by name, unless those shown now cover more ``events``, and the
    study's ``note`` below the lines of its ``lead``, unless a user wrote another one.

    Returns whether the plots are shown."""
    with store.database.errors(), store.database.rdb.engine.begin() as connection:
        # One at a time. Rows are locked in the same order as by a worker that begins a trial.
        theirs = tables.optuna_studies.c.study_id
        connection.execute(select(theirs).where(theirs == store.study_id).with_for_update())
        try:
            store.key.lock(connection)
        except KeyError:
            return False  # the study was deleted
        note_keys = _read(connection, store.study_id, "dashboard:note_")
        shown = _published(_read(connection, store.study_id, PUBLISHED).get(PUBLISHED))
        if shown is not None and shown.events > events:
            return False
        now = connection.execute(select(tables.db_now())).scalar_one()
        new: dict[str, Any] = {f"dashboard:plot_data:{n}:0": text for n, text in plots.items()}
        new[PUBLISHED] = [events, now, seconds]
        new |= _study_note(note_keys, note, lead)
        tables.write_attributes(connection, _ours.c.study_id, store.study_id, new)
    return True


def _study_note(stored: Mapping[str, Any], note: str, lead: Sequence[str]) -> dict[str, Any]:
    """The attributes that show the lead, in bold, and the note; none if they are shown already, or
    if the stored note is not one that tuner wrote."""
    text, version = stored.get("dashboard:note_str:0"), stored.get("dashboard:note_ver")
    wanted = "\n\n".join([*(f"**{line}**" for line in lead), note])
    if version is not None:
        led = isinstance(text, str) and text.startswith("**") and text.endswith(f"**\n\n{note}")
        if text == wanted or not (text == note or led):
            return {}
    return {
        "dashboard:note_ver": (rows.whole(version) or 0) + 1,
        "dashboard:note_str:0": wanted,
    }


def _read(connection: Connection, study_id: int, prefix: str) -> dict[str, Any]:
    query = select(_ours.c.key, _ours.c.value_json).where(
        _ours.c.study_id == study_id, _ours.c.key.startswith(prefix, autoescape=True)
    )
    return {key: rows.attribute(value) for key, value in connection.execute(query)}
