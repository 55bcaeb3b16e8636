"""Keeping a study's plots in the Optuna Dashboard up to date, at little cost."""

import time
from contextlib import suppress

from tuner.errors import StorageError
from tuner.study.board import publish, published
from tuner.study.store import StudyStore
from tuner.views.notes import study_note

REST = 200.0  # times as long as the plots took to make, all workers leave them as they are
FIRST = 1.0  # seconds that the first ones are taken to need: plotly is imported for them


def refresh_plots(store: StudyStore, *, last: bool = False) -> None:
    """Publish what there is to see now, whichever worker's trial ended, unless that was done a
    short while ago; the ``last`` time, when nothing is left to train, all the same. The first time
    of all, the study's note. A database that is away is left to those who need it."""
    with suppress(StorageError):
        shown = published(store)
        if shown is None:
            publish(store, 0, FIRST, {}, study_note(store.name, store.spec))
        elif last or shown.age >= REST * shown.seconds:
            _plot(store, shown.events)


def _plot(store: StudyStore, seen: int) -> None:
    began = time.perf_counter()
    from tuner.views.dashboard import events, plots  # brings plotly along

    trials = store.trials()
    count = events(trials)
    if seen < count:
        made = plots(store.spec, trials)
        note = study_note(store.name, store.spec)
        publish(store, count, time.perf_counter() - began, made, note)
