"""A study in a notebook: tables, plots and samples of it, while it runs or afterwards.

Nothing is kept between two looks: each reads the database anew, over a connection of its own that
is closed again. So there is nothing to refresh, and a notebook left open holds nothing.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from tuner.errors import InputError, TunerError
from tuner.places import ARTIFACTS_VARIABLE, Local, default_storage
from tuner.spec import StudySpec
from tuner.study.database import Database
from tuner.study.store import StudyStore, TrialRecord
from tuner.views.frames import Frame, epochs_frame, trials_frame

if TYPE_CHECKING:
    from PIL.Image import Image

Figure = Any  # plotly's, which has no types


def open_study(
    name: str,
    storage: str | None = None,
    artifacts: str | os.PathLike[str] | None = None,
    *,
    allow: Sequence[str] = (),
) -> "Study":
    """The study ``name``, to be looked at from a notebook; nothing in it is changed.

    ``storage`` is a URL ``sqlite:///FILE`` or ``postgresql://…``, by default the command line's;
    ``artifacts`` says where this machine reaches the study's files, by default where the study
    says. ``allow`` names packages whose networks may be imported to draw samples.
    Raises InputError where there is no such study, StorageError where the database can't be read.
    """
    elsewhere = artifacts or os.environ.get(ARTIFACTS_VARIABLE)
    files = None if elsewhere is None else os.fspath(elsewhere)
    return Study(name, storage or default_storage(), files, Local(allow=tuple(allow)))


class Study:
    """A study of a database. Whatever is asked of it is read from there at that moment."""

    def __init__(self, name: str, url: str, artifacts: str | None, local: Local) -> None:
        """See ``open_study``."""
        self.name = name
        self._url, self._artifacts, self._local = url, artifacts, local
        self.plot = Plots(self)
        with self._opened():
            pass

    @contextmanager
    def _opened(self) -> Iterator[StudyStore]:
        """The study's store for one look. What goes wrong is told in its one line, without what
        the database's driver said before: a notebook would show all of it."""
        try:
            database = Database(self._url)
            try:
                yield StudyStore(database, self.name)
            finally:
                database.rdb.engine.dispose()
        except TunerError as error:
            raise error from None

    @property
    def spec(self) -> StudySpec:
        """The study file."""
        with self._opened() as store:
            return store.spec

    @property
    def trials(self) -> Frame:
        """A data frame with a row per trial, by number: state, value, each searched parameter
        under its name in the study file (missing where a trial does not have it), epochs,
        device-seconds, device, host, and the reason why it ended. Needs pandas."""
        with self._opened() as store:
            return trials_frame(store.spec, store.trials())

    @property
    def epochs(self) -> Frame:
        """A data frame with a row per trial and epoch: trial, state, and all that was reported;
        NaN where it was not measured. Needs pandas."""
        with self._opened() as store:
            return epochs_frame(store.trials())

    @property
    def best(self) -> "Trial":
        """The complete trial with the lowest value; InputError where none is complete."""
        with self._opened() as store:
            return Trial(self, store.spec, store.best())

    def trial(self, number: int) -> "Trial":
        """The trial ``number``; InputError where there is none."""
        with self._opened() as store:
            return Trial(self, store.spec, store.trial(number))

    def __repr__(self) -> str:
        from tuner.views.cards import one_line

        try:
            with self._opened() as store:
                words = one_line(store.spec, store.total, store.trials())
        except TunerError as error:  # to be shown is not to fail
            words = str(error).partition("\n")[0]
        return f"<Study {self.name!r}: {words}>"

    def _repr_html_(self) -> str:
        from tuner.views.cards import study_card

        with self._opened() as store:
            trials, parts = store.trials(), store.fingerprint()
            place = store.database.place
            return study_card(store.spec, store.total, parts, trials, self.name, place)

    def _images(self, trial: TrialRecord, count: int, seed: int) -> "np.ndarray[Any, Any]":
        """uint8 images (n, h, w, c)."""
        if count < 1:
            raise InputError(f"samples: found n = {count}, expected at least 1")
        if seed < 0:
            raise InputError(f"samples: found seed = {seed}, expected at least 0")
        with self._opened() as store:
            from tuner.run.files import open_files
            from tuner.run.sweep import draw_samples, generator_of, other_code

            generator_of(store, trial)  # a study without any has no files to open
            files = open_files(store, self._artifacts)
            if (line := other_code(store, self._local)) is not None:
                warnings.warn(line, stacklevel=3)
            return draw_samples(store, files, trial, count, seed, self._local)


class Trial:
    """One trial, as it was when it was asked for: ask the study again for a running one's news."""

    def __init__(self, study: Study, spec: StudySpec, record: TrialRecord) -> None:
        self._study, self._spec, self._record = study, spec, record
        self.number: int = record.number
        self.state: str = record.state  # RUNNING, COMPLETE, PRUNED, FAIL
        self.value: float | None = record.value
        self.params: dict[str, Any] = dict(record.params)
        self.reason: str | None = record.reason

    @property
    def epochs(self) -> Frame:
        """The trial's rows of the study's ``epochs``. Needs pandas."""
        return epochs_frame([self._record])

    def samples(self, n: int = 64, seed: int = 0) -> "list[Image]":
        """``n`` samples of the kept generator as PIL images. The same ``seed`` gives every trial of
        equal latent size the same latents.

        InputError where no generator was kept, or where its network is of a package that
        ``open_study`` was not told to ``allow``; StorageError where the files can't be reached.
        """
        from tuner.views.pictures import picture

        return [picture(image) for image in self._study._images(self._record, n, seed)]

    def grid(self, n: int = 64, seed: int = 0) -> "Image":
        """The same ``samples`` as one PIL image, as ``tuner sample`` draws it."""
        from tuner.views.pictures import grid, picture

        return picture(grid(self._study._images(self._record, n, seed)))

    def __repr__(self) -> str:
        from tuner.views.numbers import number, settings

        words = f"{self.state.lower()}, value {number(self.value)}, {settings(self.params)}"
        return f"<Trial {self.number} of {self._study.name!r}: {words}>"

    def _repr_html_(self) -> str:
        from tuner.views.cards import trial_card

        return trial_card(self._spec, self._record, self._study.name)


class Plots:
    """A study's plots, as ``tuner plot`` draws them: each call gives a plotly figure of now."""

    def __init__(self, study: Study) -> None:
        self._study = study

    def _draw(self, kind: str) -> Figure:
        from tuner.views.figures import FIGURES

        with self._study._opened() as store:
            return FIGURES[kind](store.spec, store.trials())

    def value(self) -> Figure:
        """The objective after every evaluated epoch, a line per trial."""
        return self._draw("value")

    def loss_ratio(self) -> Figure:
        """D's loss over G's after every epoch, with the guard's bounds."""
        return self._draw("loss-ratio")

    def map(self) -> Figure:
        """The best value in each part of the space of learning rate and batch size, or of the
        first two parameters that are searched."""
        return self._draw("map")

    def time(self) -> Figure:
        """The time of the devices by the trials' outcomes."""
        return self._draw("time")

    def marginals(self) -> Figure:
        """The values against each searched parameter, side by side."""
        return self._draw("marginals")

    def importances(self) -> Figure:
        """The share of the values' variance that each parameter explains (fANOVA). InputError
        where scikit-learn is not installed."""
        return self._draw("importances")

    def trial(self, number: int | None = None) -> Figure:
        """One trial's objective, loss ratio and D's AUC after every epoch; by default the best's,
        and InputError where none is complete."""
        from tuner.views.figures import trial_curves

        with self._study._opened() as store:
            found = store.best() if number is None else store.trial(number)
            return trial_curves(store.spec, found)

    def __repr__(self) -> str:
        kinds = [f"{name}()" for name in vars(Plots) if not name.startswith("_")]
        return f"<Plots of study {self._study.name!r}: {', '.join(kinds)}>"
