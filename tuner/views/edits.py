"""Edits of a study's file as text and as a table."""

from collections.abc import Sequence
from typing import Any

from tuner.spec.edits import Change
from tuner.study.edits import Edit
from tuner.views.formatting import date_time
from tuner.views.study_toml import value_toml
from tuner.views.tables import FittingTable


def change_text(change: Change) -> str:
    """``study.trials: 20 -> 50``."""
    return f"{change.key}: {_shown(change.old)} -> {_shown(change.new)}"


def history_table(edits: Sequence[Edit]) -> FittingTable:
    """One row per changed key, the oldest first."""
    headings = ("edited at", "by", "change")
    table = FittingTable(headings, prose=["change"], left=headings)
    for edit in edits:
        for change in edit.changes:
            table.add_row(date_time(edit.edited_at), edit.editor, change_text(change))
    return table


def _shown(value: Any) -> str:
    return "none" if value is None else value_toml(value)
