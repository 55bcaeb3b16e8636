"""A study in a notebook: tables, plots and samples, while it runs or afterwards.

Every access reads the database over a new connection, so values are always current and an idle
notebook holds no connection.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL.Image import Image

from tuner.environment import ARTIFACTS_VARIABLE, MachineOptions, default_storage, variable
from tuner.errors import TunerError
from tuner.spec.study import StudySpec
from tuner.study.database import Database
from tuner.study.records import TrialRecord
from tuner.study.snapshot import StudyPoller
from tuner.study.store import StudyStore
from tuner.views.budgets import budget_line
from tuner.views.data_frames import Frame, epochs_frame, trials_frame
from tuner.views.figures import PLOTS
from tuner.views.formatting import number, params_text
from tuner.views.images import grid, picture

if TYPE_CHECKING:
    from tuner.run.stored_generators import ImageGenerator

Figure = Any  # plotly's, which has no types
KINDS = {kind.replace("-", "_"): plot for kind, plot in PLOTS.items()}


def open_study(
    name: str,
    storage: str | None = None,
    artifacts: str | os.PathLike[str] | None = None,
    *,
    allow: Sequence[str] = (),
) -> "Study":
    """Open the study ``name`` for reading.

    ``storage``: ``sqlite:///FILE`` or ``postgresql://…``; default as on the command line.
    ``artifacts``: location of the study's files; default as on the command line.
    ``allow``: packages that custom networks may be imported from, to draw samples.

    Raises InputError if there is no such study, StorageError if the database can't be read.
    """
    location = artifacts or variable(ARTIFACTS_VARIABLE)
    files = None if location is None else os.fspath(location)
    return Study(name, storage or default_storage(), files, MachineOptions(allow=tuple(allow)))


class Study:
    """A study in a database. Every access reads its current state."""

    def __init__(self, name: str, url: str, artifacts: str | None, options: MachineOptions) -> None:
        """See ``open_study``."""
        self.name = name
        self._url, self._artifacts, self._options = url, artifacts, options
        self.plot = Plots(self)
        with self._opened():
            pass

    @contextmanager
    def _opened(self) -> Iterator[StudyStore]:
        """The study's store, for one access.

        Errors are raised without their causes, which a notebook would print in full.
        """
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
        """A data frame with one row per trial, indexed by number. Needs pandas.

        Columns: state, value, each searched parameter by its name in the study file (missing if the
        trial does not have it), epochs, device time in seconds, device, host, and the reason.
        """
        with self._opened() as store:
            return trials_frame(store.spec, store.trials())

    @property
    def epochs(self) -> Frame:
        """A data frame with one row per trial and epoch: trial, state, and the epoch's report.

        Numbers that were not measured are NaN. Needs pandas.
        """
        with self._opened() as store:
            return epochs_frame(store.trials())

    @property
    def best(self) -> "Trial":
        """The confirmed winner, else the complete trial with the best value.

        InputError if no trial is complete.
        """
        with self._opened() as store:
            return Trial(self, store.spec, store.winner() or store.best())

    def trial(self, number: int) -> "Trial":
        """The trial ``number``; InputError if there is none."""
        with self._opened() as store:
            return Trial(self, store.spec, store.trial(number))

    def __repr__(self) -> str:
        from tuner.views.notebook_html import summary_line

        try:
            with self._opened() as store:
                words = summary_line(store.spec, StudyPoller(store).snapshot())
        except TunerError as error:  # a repr must not fail
            words = str(error).partition("\n")[0]
        return f"<Study {self.name!r}: {words}>"

    def _repr_html_(self) -> str:
        from tuner.views.notebook_html import study_card

        with self._opened() as store:
            read = store.spec, store.total, store.fingerprint(), store.trials()
            alive = sum(worker.alive for worker in store.workers())
            budget = budget_line(store.budget(), store.remaining(), alive)
            return study_card(*read, self.name, store.database.place, store.confirmed(), budget)

    def _generator(self, trial: TrialRecord, stacklevel: int = 3) -> "ImageGenerator":
        with self._opened() as store:
            from tuner.files.study_files import open_files
            from tuner.run.startup import code_change_warning
            from tuner.run.stored_generators import generator_of, open_generator

            generator_of(store, trial)  # raises before the files are opened
            files = open_files(store, self._artifacts)
            if (line := code_change_warning(store, self._options)) is not None:
                warnings.warn(line, stacklevel=stacklevel)
            return open_generator(store, files, trial, self._options)

    def _images(self, trial: TrialRecord, count: int, seed: int) -> np.ndarray:
        """uint8 images (n, h, w, c)."""
        from tuner.run.stored_generators import check_request

        check_request(count, seed)
        return self._generator(trial, stacklevel=4)(count, seed)


class Trial:
    """A snapshot of one trial; to follow a running trial, get it from the study again."""

    def __init__(self, study: Study, spec: StudySpec, record: TrialRecord) -> None:
        self._study, self._spec, self._record = study, spec, record
        self.number: int = record.number
        self.state: str = record.state  # RUNNING, PAUSED, COMPLETE, PRUNED, FAIL
        self.value: float | None = record.value
        self.params: dict[str, Any] = dict(record.params)
        self.reason: str | None = record.reason

    @property
    def epochs(self) -> Frame:
        """The trial's rows of the study's ``epochs``. Needs pandas."""
        return epochs_frame([self._record])

    def generator(self) -> "ImageGenerator":
        """The stored generator as a function ``generate(n=64, seed=0, labels=None)``.

            generate = study.best.generator()
            images = generate(16, seed=1)  # uint8 (16, height, width, channels)

        The images are those of ``samples`` and ``tuner sample``. ``labels``, for a generator that
        is conditioned on classes: one class or one for each image. The function keeps the weights
        and needs neither the database nor the store. Raises the errors of ``samples``.
        """
        return self._study._generator(self._record)

    def samples(self, n: int = 64, seed: int = 0) -> list[Image]:
        """``n`` samples of the kept generator as PIL images.

        The latents depend on ``seed`` alone: trials with the same latent size get the same latents.
        InputError if no generator was kept, or if its network belongs to a package that is not in
        ``open_study``'s ``allow``; StorageError if the files can't be read.
        """
        return [picture(image) for image in self._study._images(self._record, n, seed)]

    def grid(self, n: int = 64, seed: int = 0) -> Image:
        """The same ``samples`` as one PIL image, as from ``tuner sample``."""
        return picture(grid(self._study._images(self._record, n, seed)))

    def __repr__(self) -> str:
        words = f"{self.state.lower()}, value {number(self.value)}, {params_text(self.params)}"
        return f"<Trial {self.number} of {self._study.name!r}: {words}>"

    def _repr_html_(self) -> str:
        from tuner.views.notebook_html import trial_card

        return trial_card(self._spec, self._record, self._study.name)


class Plots:
    """A study's plots as plotly figures, drawn from its current state.

    One method for each ``--kind`` of ``tuner plot``, with underscores: ``plot.loss_ratio()``.
    """

    def __init__(self, study: Study) -> None:
        self._study = study

    def __getattr__(self, name: str) -> Callable[[], Figure]:
        if (plot := KINDS.get(name)) is None:
            raise AttributeError(f"there is no plot {name!r}, only: {', '.join(dir(self))}")

        def draw() -> Figure:
            with self._study._opened() as store:
                return plot.draw(store.spec, store.trials())

        draw.__name__, draw.__doc__ = name, plot.load().__doc__
        return draw

    def __dir__(self) -> list[str]:
        return sorted([*KINDS, "trial"])

    def trial(self, number: int | None = None) -> Figure:
        """One trial's objective, loss ratio and discriminator AUC after each epoch.

        By default the best trial's; InputError if no trial is complete.
        """
        from tuner.views.curves import trial_curves

        with self._study._opened() as store:
            found = store.best() if number is None else store.trial(number)
            return trial_curves(store.spec, found)

    def __repr__(self) -> str:
        names = ", ".join(f"{name}()" for name in dir(self))
        return f"<Plots of study {self._study.name!r}: {names}>"
