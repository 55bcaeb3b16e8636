"""Keeping a study's plots in the Optuna Dashboard up to date, at little cost."""

import time
from contextlib import suppress

from tuner.errors import StorageError
from tuner.study.board import publish, published
from tuner.study.store import StudyStore
from tuner.views.notes import study_note

REST = 200.0  # times as long as the plots took to make, all workers leave them as they are


class Publisher:
    """Makes the study's plots anew as its trials end, whichever of its workers ended them."""

    def __init__(self, store: StudyStore) -> None:
        self._store = store

    def refresh(self, *, last: bool = False) -> None:
        """Publish what there is to see now, unless that was done a short while ago; the ``last``
        time all the same. A database that is away is left to those who need it."""
        with suppress(StorageError):
            self._refresh(last)

    def _refresh(self, last: bool) -> None:
        shown = published(self._store)
        if shown is not None and not last and shown.age < REST * shown.seconds:
            return
        from tuner.views.dashboard import events, plots  # brings plotly along

        began = time.perf_counter()
        trials = self._store.trials()
        count = events(trials)
        if shown is not None and shown.events >= count:
            return
        made = plots(self._store.spec, trials)
        note = study_note(self._store.name, self._store.spec)
        publish(self._store, count, time.perf_counter() - began, made, note)
