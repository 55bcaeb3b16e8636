"""Publishing to the Optuna Dashboard: plots of a study, pictures and notes of trials."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import numpy as np

from tuner.dashboard.notes import study_lead, study_note, trial_note
from tuner.epoch_report import EpochReport
from tuner.errors import StorageError, TunerError
from tuner.files.pictures import CURVES, REAL_IMAGES, PictureUploader, neighbours_of
from tuner.files.study_files import StudyFiles
from tuner.spec.study import StudySpec
from tuner.study.claims import Claim
from tuner.study.dashboard_attributes import publish, published
from tuner.study.records import TrialRecord
from tuner.study.sinks import Publication, Publisher
from tuner.study.store import StudyStore
from tuner.views.figures import PLOTS
from tuner.views.images import grid_png
from tuner.views.trial_svg import curves_svg

# Plots that took t seconds to draw are not drawn again by any worker for REDRAW_FACTOR * t seconds.
REDRAW_FACTOR = 200.0
FIRST = 1.0  # assumed seconds for the first plots, which import plotly
END_WAIT = 60.0  # maximum seconds that a trial's end waits for its pictures
EPOCH_WAIT = 0.005  # maximum time that a report waits for its picture, as a share of the epoch's
MAX_EPOCHS = 10_000  # per plot: browsers fetch all of them repeatedly


class DashboardPublisher(Publisher):
    """Pictures and a note for every trial, plots and a note for the study."""

    def __init__(
        self,
        store: StudyStore,
        files: StudyFiles,
        announce: Callable[[str], None],
        drawn: Callable[[int, int, bytes], None] = lambda trial, epoch, png: None,
    ) -> None:
        """``drawn`` receives each sample grid, on another thread: trial, epoch, PNG file."""
        self._store, self._files, self._announce, self._drawn = store, files, announce, drawn
        self._claim: Claim
        self._uploader: PictureUploader

    def study(self, *, ended: bool = False) -> None:
        refresh_plots(self._store, last=ended)

    def real_images(self, images: np.ndarray) -> None:
        with suppress(TunerError):  # the report works without them
            if len(images) and self._files.read(REAL_IMAGES) is None:
                self._files.write(REAL_IMAGES, grid_png(images))

    def begin(self, claim: Claim) -> None:
        self._claim = claim
        self._uploader = PictureUploader(
            self._files, self._store.token, claim.number, self._announce
        )
        if claim.history:
            self._uploader.remember()

    def samples(self, epoch: int, samples: np.ndarray | None) -> None:
        spec = self._store.spec
        due = spec.pictures.due(epoch, spec.metrics.every)
        if due or epoch == self._claim.config.epochs:
            self._add(epoch, samples)

    def neighbours(self, strips: np.ndarray) -> None:
        count, length, *shape = strips.shape
        png = grid_png(strips.reshape(count * length, *shape), length)
        with suppress(TunerError):  # the report works without them
            self._files.write(neighbours_of(self._claim.number), png)

    def attributes(self, report: EpochReport) -> Mapping[str, str]:
        return self._uploader.take(EPOCH_WAIT * report.seconds)

    def end(self, trial: TrialRecord, best_epoch: int, samples: np.ndarray | None) -> Publication:
        spec, uploader = self._store.spec, self._uploader
        if best_epoch:
            self._add(best_epoch, samples)
        if trial.reports:
            uploader.add(CURVES, lambda: curves_svg(spec, trial.history).encode())
        attributes = uploader.take(END_WAIT)
        address = f"/artifacts/{self._store.study_id}/{self._claim.trial_id}"
        pictures = {epoch: f"{address}/{name}" for epoch, name in uploader.artifacts().items()}
        note = trial_note(self._store.name, spec, trial, best_epoch, pictures)
        return Publication(attributes, note)

    def close(self) -> None:
        self._uploader.close()

    def _add(self, epoch: int, samples: np.ndarray | None) -> None:
        if samples is not None and len(samples):
            self._uploader.add(epoch, partial(self._draw, self._claim.number, epoch, samples))

    def _draw(self, trial: int, epoch: int, samples: np.ndarray) -> bytes:
        png = grid_png(samples)
        self._drawn(trial, epoch, png)
        return png


def refresh_plots(store: StudyStore, *, last: bool = False) -> None:
    """Publish the study's plots unless a worker did so recently; the first time, only its note.

    The ``last`` plots, when no trial is left to run, are published even if the previous ones are
    recent. An unavailable database is ignored here: the worker's own statements wait for it.
    """
    with suppress(StorageError):
        previous = published(store)
        if previous is None:
            publish(store, 0, FIRST, {}, study_note(store.name, store.spec))
            return
        recent = 0 <= previous.age < REDRAW_FACTOR * previous.seconds  # the clock may be set back
        if recent and not last:
            return
        began = time.perf_counter()
        trials = store.trials()
        count = events([*trials, *store.confirmation_trials()])
        if previous.events < count:
            drawn, note = plots(store.spec, trials), study_note(store.name, store.spec)
            lead = study_lead(store.name, store.spec, trials, store.confirmed(), store.budget())
            publish(store, count, time.perf_counter() - began, drawn, note, lead)


def plots(spec: StudySpec, trials: Sequence[TrialRecord]) -> dict[str, str]:
    """The plots that the dashboard shows, as plotly JSON by name.

    Curves are thinned to about ``MAX_EPOCHS`` epochs in all, but keep each trial's first, best and
    last epoch.
    """
    step = -(-events(trials) // MAX_EPOCHS)

    def thinned(trial: TrialRecord) -> TrialRecord:
        kept = (1, len(trial.reports), trial.best_epoch(spec.metrics.objective))
        some = [r for r in trial.reports if r.epoch % step == 0 or r.epoch in kept]
        return trial._replace(reports=tuple(some))

    thin = [thinned(trial) for trial in trials]
    return {
        name: plot.draw(spec, trials if name == "time" else thin).to_json()
        for name, plot in PLOTS.items()
        if plot.dashboard
    }


def events(trials: Sequence[TrialRecord]) -> int:
    """The number of epochs and of ended trials so far; it only grows."""
    ended = sum(trial.has_ended for trial in trials)
    return ended + sum(len(trial.reports) for trial in trials)
