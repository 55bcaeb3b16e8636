"""The texts of notifications."""

from tuner.spec.metrics import OBJECTIVES
from tuner.study.notices import Stall
from tuner.study.records import TrialRecord
from tuner.study.store import StudyStore
from tuner.views.confirmations import winner_line
from tuner.views.formatting import duration, number, params_text
from tuner.views.summaries import values_text

LONGEST_REASON = 300  # characters


def ended_text(store: StudyStore, reason: str) -> tuple[str, str]:
    """The title and text for a study that has ended."""
    states = store.summary().states
    found = ", ".join(f"{count} {state.lower()}" for state, count in states.items())
    best, text = store.best_so_far(), winner_line(store.confirmed(), store.spec)
    if not text:
        text = "No trial is complete." if best is None else f"Best: {_described(store, best)}"
    return f"Study {store.name} has ended", f"{reason}. Trials: {found or 'none'}.\n{text}"


def best_text(store: StudyStore, best: TrialRecord) -> tuple[str, str]:
    """The title and text for a new best trial."""
    name = OBJECTIVES[store.spec.metrics.objective]
    title = f"Study {store.name}: new best, {name} {number(best.value)}"
    return title, _described(store, best)


def failed_text(store: StudyStore, count: int, last: TrialRecord) -> tuple[str, str]:
    """The title and text for failed trials."""
    reason = (last.reason or "no reason recorded")[:LONGEST_REASON]
    title = f"Study {store.name}: trial {last.number} has failed"
    return title, f"{reason}\n{count} of the study's trials have failed so far."


def stalled_text(store: StudyStore, stall: Stall) -> tuple[str, str]:
    """The title and text for a study without workers."""
    seconds = stall.seconds
    since = f"has been running for {duration(seconds)}" if seconds >= 60 else "is running now"
    text = f"No worker {since}; {stall.left} of {store.total} trials are left."
    return f"Study {store.name} has no worker", text


def _described(store: StudyStore, trial: TrialRecord) -> str:
    first = f"{OBJECTIVES[store.spec.metrics.objective]} {number(trial.value)}"
    values = values_text(trial.objectives) or first
    return f"trial {trial.number}, {values}: {params_text(trial.params)}"
