"""Measure stored generators on fresh latents, or draw samples from them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tuner.environment import DEFAULT_OPTIONS, MachineOptions
from tuner.errors import InputError
from tuner.files.folders import NAME
from tuner.files.serialization import load_generator
from tuner.files.study_files import StudyFiles
from tuner.gan.sampling import Generator, Latents, draw, even_shares, fixed_latents
from tuner.metrics.evaluate import Scores, real_against_real
from tuner.run.custom_networks import import_allowed, networks_of
from tuner.run.evaluator import Evaluator
from tuner.run.study_latents import PICTURES
from tuner.spec.warnings import can_extrapolate
from tuner.study.records import TrialRecord
from tuner.study.store import StudyStore
from tuner.trial import Program
from tuner.xla import check_settings


class Remeasurement(NamedTuple):
    """Measurements of a trial's stored generator on fresh latents."""

    trial: TrialRecord
    fresh: Scores
    real_fid: float
    real_count: int
    classes: int | None  # that the extractor finds in the data; None if it knows none
    accuracy: float | None  # of a classifier


def generator_of(store: StudyStore, trial: TrialRecord) -> str:
    """The file of a trial's generator; InputError if it has none."""
    if trial.artifact is None or not NAME.fullmatch(trial.artifact):
        raise InputError(f"study {store.name!r}: trial {trial.number} has no stored generator")
    return trial.artifact


def remeasure(
    store: StudyStore, evaluator: Evaluator, files: StudyFiles, trial: TrialRecord
) -> Remeasurement:
    """Measure a trial's generator on latents that were not used to select it."""
    program, generator, _ = load_generator(files, generator_of(store, trial))
    samples = evaluator.fresh_samples(program, generator)
    extras = {"kid", "neighbours", "heldout"} | (
        {"fid_infinity"} if can_extrapolate(store.spec) else set()
    )
    extras |= store.spec.metrics.always
    real_fid, real_count = real_against_real(evaluator.real)
    return Remeasurement(
        trial=trial,
        fresh=evaluator.scores(samples, extras),
        real_fid=real_fid,
        real_count=real_count,
        classes=evaluator.classes or None,
        accuracy=evaluator.extractor.accuracy,
    )


def check_request(n: int, seed: int) -> None:
    """Raise InputError unless ``n`` images can be drawn with ``seed``."""
    for name, given, least in (("n", n, 1), ("seed", seed, 0)):
        if given < least:
            raise InputError(f"samples: found {name} = {given}, expected at least {least}")


class ImageGenerator:
    """A trial's stored generator as a function; it needs neither the database nor the store."""

    def __init__(self, program: Program, weights: Generator) -> None:
        self.program, self.weights = program, weights

    def __call__(
        self, n: int = 64, seed: int = 0, labels: int | Sequence[int] | None = None
    ) -> NDArray[np.uint8]:
        """Generate ``n`` images, uint8 (n, height, width, channels).

        Trials of equal latent size get the same latents for the same ``seed``. ``labels``, for a
        conditional generator: one class or one for each image; by default all equally often.
        InputError for other values.
        """
        return draw(self.program, self.weights, self.latents(n, seed, labels))

    def interpolation(self, rows: int, columns: int, seed: int = 0) -> NDArray[np.uint8]:
        """Images of latents between two others: uint8 (rows * columns, height, width, channels).

        A row follows cos(t) z1 + sin(t) z2 for t from 0 to pi / 2. As z1 and z2 are independent,
        each latent of it is standard normal, too. A conditional generator gets one class per row.
        """
        first, second = self.latents(rows, seed), self.latents(rows, seed + 1)
        angles = np.linspace(0, np.pi / 2, columns, dtype=np.float32)[:, None]
        z: NDArray[np.float32] = np.cos(angles) * first.z[:, None]
        z += np.sin(angles) * second.z[:, None]
        labels = None if first.labels is None else first.labels.repeat(columns)
        return draw(self.program, self.weights, Latents(z.reshape(rows * columns, -1), labels))

    def by_class(self, max_classes: int, columns: int, seed: int = 0) -> NDArray[np.uint8]:
        """Images of at most ``max_classes`` classes, a row for each, all from the same latents:
        uint8 (classes * columns, height, width, channels)."""
        classes = np.arange(min(max_classes, self.program.classes), dtype=np.int32)
        z = np.tile(self.latents(columns, seed).z, (len(classes), 1))
        return draw(self.program, self.weights, Latents(z, classes.repeat(columns)))

    def latents(self, n: int, seed: int, labels: int | Sequence[int] | None = None) -> Latents:
        """The latents of the images that a call with these arguments returns."""
        check_request(n, seed)
        latent_seed = int(np.random.SeedSequence((seed, PICTURES)).generate_state(1)[0])
        shares = even_shares(self.program)
        latents = fixed_latents(latent_seed, n, self.program.latent_dim, shares)
        return latents if labels is None else latents._replace(labels=self._labels(n, labels))

    def _labels(self, n: int, labels: int | Sequence[int]) -> NDArray[np.int32]:
        classes = self.program.classes
        if not classes:
            raise InputError("labels: this generator is not conditioned on classes")
        found = np.asarray(labels)
        whole = found.dtype.kind in "iu" and found.shape in ((), (n,))
        if not whole or found.min() < 0 or found.max() >= classes:
            raise InputError(f"labels: expected a class, or {n} classes, from 0 to {classes - 1}")
        return np.broadcast_to(found.astype(np.int32), n)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.program.image_shape))
        return f"<ImageGenerator {self.program.generator}: {shape}, {self.program.classes} classes>"


def open_generator(
    store: StudyStore,
    files: StudyFiles,
    trial: TrialRecord,
    options: MachineOptions = DEFAULT_OPTIONS,
) -> ImageGenerator:
    """Load a trial's stored generator.

    InputError if it has none, or if its network's package is not allowed.
    """
    check_settings()
    import_allowed(networks_of(store.spec), options.allow)
    program, weights, _ = load_generator(files, generator_of(store, trial))
    return ImageGenerator(program, weights)


def draw_samples(
    store: StudyStore,
    files: StudyFiles,
    trial: TrialRecord,
    count: int,
    seed: int,
    options: MachineOptions = DEFAULT_OPTIONS,
) -> NDArray[np.uint8]:
    """Generate ``count`` uint8 images (n, h, w, c) with a trial's stored generator."""
    return open_generator(store, files, trial, options)(count, seed)
