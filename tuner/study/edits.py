"""Edits of a study's stored file while workers run it, with their history.

An edit is one transaction that locks the study: of two at the same time, the second one is checked
against the outcome of the first. Running workers read the file again at their next claim.
"""

import contextlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import func, insert, select, update

from tuner.errors import InputError
from tuner.spec.edits import Change, changes, edited, parse_assignments
from tuner.spec.loading import differences
from tuner.spec.study import StudySpec
from tuner.study import rows, tables
from tuner.study.optuna_internals import models
from tuner.study.store import StudyStore
from tuner.study.study_row import reopened_search

_edits, _studies = tables.edits.c, tables.studies.c


class Edit(NamedTuple):
    """One edit of a study's file."""

    edited_at: float  # seconds since 1970, by the database's clock
    editor: str
    changes: list[Change]


def edit(store: StudyStore, words: Sequence[str], editor: str) -> list[Change]:
    """Change keys of the stored study file, given as words like ``study.trials=50``; returns what
    has changed.

    InputError lists every key that may not change and everything wrong with the new file.
    """
    assignments = parse_assignments(words)
    sets_total = any(one.key == ("study", "trials") for one in assignments)
    with store.database.errors(), store.database.rdb.transaction() as session:
        # Locked first, as by begin_trial: the new row's foreign key locks it, too.
        models.StudyModel.find_or_raise_by_id(store.study_id, session, for_update=True)
        total, text = store.key.lock(session, _studies.spec)
        old = store.parse(text)
        new = edited(old, assignments, f"study {store.name!r}")
        found, wanted = changes(old, new), new.study.trials if sets_total else total
        if wanted != total:
            found.append(Change("study.trials", total, wanted))
        if found:
            values = {"spec": new.model_dump_json(), "total": wanted}
            if any(one.key == "study.trials" or one.key.startswith("stop.") for one in found):
                values |= reopened_search()
            session.execute(update(tables.studies).where(store.key.row()).values(values))
            _record(session, store, editor, found, text)
    store.refresh()
    return found


def _record(
    session: Any, store: StudyStore, editor: str, found: Sequence[Change], before: str
) -> None:
    """Add an edit to the history; ``before`` is the study file that it replaces."""
    mine = _edits.study_id == store.study_id
    last = select(func.coalesce(func.max(_edits.number), 0)).where(mine)
    row = {
        "study_id": store.study_id,
        "number": session.execute(last).scalar_one() + 1,
        "edited_at": tables.db_now(),
        "editor": rows.printable(editor),
        "changes": json.dumps(rows.storable(found)),
        "spec": before,
    }
    session.execute(insert(tables.edits).values(row))


def history(store: StudyStore) -> list[Edit]:
    """The study's edits, oldest first; those that can't be read are left out."""
    query = select(_edits.edited_at, _edits.editor, _edits.changes)
    found = []
    for edited_at, editor, text in _read(store, query):
        listed = rows.attribute(text)
        triples = listed if isinstance(listed, list) else []
        made = [Change(*map(rows.storable, one)) for one in triples if _is_change(one)]
        if made and rows.finite(edited_at) is not None:
            found.append(Edit(edited_at, rows.printable(str(editor)), made))
    return found


def _is_change(one: Any) -> bool:
    return isinstance(one, list) and len(one) == 3 and isinstance(one[0], str)


def earlier_specs(store: StudyStore) -> list[StudySpec]:
    """The study files before each edit, the newest first; those that can't be read are left
    out."""
    found = []
    for (text,) in reversed(_read(store, select(_edits.spec))):
        with contextlib.suppress(InputError):
            found.append(store.parse(text))
    return found


def _read(store: StudyStore, query: Any) -> Sequence[Any]:
    mine = (_edits.study_id == store.study_id) & store.key.exists()
    with store.database.reading() as connection:
        return connection.execute(query.where(mine).order_by(_edits.number)).all()


def is_version_of(store: StudyStore, spec: StudySpec) -> bool:
    """Whether the study has this study file, or had it before it was edited."""
    return any(not differences(known, spec) for known in (store.spec, *earlier_specs(store)))


def requested_total(store: StudyStore, spec: StudySpec) -> int | None:
    """The total that a study file requests; None if it is the one that an edit has replaced."""
    old = {before.study.trials for before in earlier_specs(store)}
    return None if spec.study.trials in old else spec.study.trials
