"""Keeping a study's plots in the Optuna Dashboard up to date, at little cost."""

import time
from contextlib import suppress

from tuner.errors import StorageError
from tuner.study.board import publish, published
from tuner.study.store import StudyStore
from tuner.views.notes import study_note

REST = 200.0  # times as long as the plots took to make, all workers leave them as they are
FIRST = 1.0  # seconds that the first ones are taken to need: plotly is imported for them


class Publisher:
    """Makes the study's plots anew as its trials end, whichever of its workers ended them."""

    def __init__(self, store: StudyStore) -> None:
        self._store = store

    def refresh(self, *, last: bool = False) -> None:
        """Publish what there is to see now, unless that was done a short while ago; the ``last``
        time, when nothing is left to train, all the same. The first time of all, the study's note.
        A database that is away is left to those who need it."""
        with suppress(StorageError):
            self._refresh(last)

    def _refresh(self, last: bool) -> None:
        shown = published(self._store)
        note = study_note(self._store.name, self._store.spec)
        if shown is None:
            publish(self._store, 0, FIRST, {}, note)
        elif last or shown.age >= REST * shown.seconds:
            self._plot(shown.events, note)

    def _plot(self, seen: int, note: str) -> None:
        began = time.perf_counter()
        from tuner.views.dashboard import events, plots  # brings plotly along

        trials = self._store.trials()
        count = events(trials)
        if seen < count:
            made = plots(self._store.spec, trials)
            publish(self._store, count, time.perf_counter() - began, made, note)
