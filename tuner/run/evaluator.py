"""``Evaluator``: measures all trials of a study on the same images and latents."""

import hashlib
import os
from collections.abc import Collection
from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from tuner import environment
from tuner.data import ImageSet
from tuner.gan.input_pipeline import Images
from tuner.gan.sampling import (
    Generator,
    Latents,
    discriminate,
    draw,
    fixed_latents,
    generate,
    generator_of,
)
from tuner.gan.state import GanState
from tuner.gan.training import quantise
from tuner.metrics.diagnostics import discriminator_auc
from tuner.metrics.evaluate import NO_SCORES, ReferenceStatistics, Scores, scores
from tuner.metrics.extractors import Extractor
from tuner.run.custom_networks import Sources
from tuner.spec.study import StudySpec
from tuner.trial import DatasetInfo, Program
from tuner.xla import running_time

AUC_IMAGES = 1000
IMAGE_SHARE = 0.4  # of the device's memory for images
# Purposes of fixed latents, folded into the study's seed.
STATISTICS, EVALUATION, FRESH, PICTURES = range(4)


class Evaluation(NamedTuple):
    """The results of an evaluation; empty unless everything was finite.

    The seconds of generating images, extracting features and computing scores exclude compilation.
    """

    finite: bool = False
    scores: Scores = NO_SCORES
    d_auc: float | None = None
    samples: np.ndarray | None = None  # uint8 (n, h, w, c), of the same latents every time
    generate_seconds: float = 0.0
    extract_seconds: float = 0.0
    score_seconds: float = 0.0


def dataset_info(images: ImageSet, sources: Sources = ()) -> DatasetInfo:
    """Dataset facts shared by all trials, with the ``sources`` of custom networks."""
    classes = 0 if images.labels is None else int(images.labels.max()) + 1
    return DatasetInfo(images.shape, len(images.images), classes, sources)


def image_memory() -> float:
    """Bytes of device memory for images: TUNER_IMAGE_MEMORY, or by default a share of the memory.

    A larger image set is streamed from the host.
    """
    given = environment.image_memory()
    if given is not None:
        return given
    found = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in found:
        return IMAGE_SHARE * float(found["bytes_limit"])
    return IMAGE_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def latent_seed(spec: StudySpec, purpose: int) -> int:
    """The seed of the study's fixed latents for one purpose."""
    return int(np.random.SeedSequence((spec.study.seed, purpose, 1)).generate_state(1)[0])


def latents_digest(spec: StudySpec) -> str:
    """Hash the first latents of an evaluation, which depend on the seed and on JAX's settings."""
    z = fixed_latents(latent_seed(spec, EVALUATION), 8, 8).z
    return hashlib.sha256(z.tobytes()).hexdigest()[:8]


class Evaluator:
    """Measures generators, the same way for every trial of a study."""

    def __init__(
        self,
        spec: StudySpec,
        images: ImageSet,
        extractor: Extractor,
        real: ReferenceStatistics,
        sources: Sources = (),
    ) -> None:
        """``real`` comes from ``sharing.shared_measures``; ``sources`` are custom networks'."""
        self.spec = spec
        self.dataset = dataset_info(images, sources)
        self.extractor, self.real = extractor, real
        self.images: Images = images.images
        if images.images.nbytes <= image_memory():
            self.images = jax.device_put(images.images)
        chosen = np.random.default_rng(spec.study.seed).permutation(len(images.images))
        chosen = np.sort(chosen[:AUC_IMAGES])
        self._auc_images = np.asarray(images.images[chosen])
        self.labels: Array | None = None
        self._auc_labels: NDArray[np.int32] | None = None
        self._shares = list[float]()  # of the classes
        if images.labels is not None:
            labels = images.labels.astype(np.int32)
            self.labels, self._auc_labels = jax.device_put(labels), labels[chosen]
            self._shares = list(np.bincount(images.labels) / len(images.labels))

    @property
    def classes(self) -> int:
        """Number of classes that the extractor finds in the data; 0 if it knows none."""
        return int((self.real.shares > 0).sum())

    def generator(self, program: Program, state: GanState) -> Generator:
        """The trial's generator, with batch statistics from the study's fixed latents."""
        seed = latent_seed(self.spec, STATISTICS)
        return generator_of(program, state, seed, self._shares_for(program))

    def measure(
        self, program: Program, state: GanState, generator: Generator, extras: Collection[str] = ()
    ) -> Evaluation:
        """Evaluate a trial's generator and discriminator on the study's latents and images.

        ``extras`` as in ``metrics.evaluate.scores``.
        """
        started = running_time()
        latents = self._latents(EVALUATION, program)
        fakes = np.concatenate(list(generate(program, generator, latents)))
        generated = running_time()
        real_labels = self._auc_labels if program.classes else None
        fake_labels = None if latents.labels is None else latents.labels[:AUC_IMAGES]
        real = discriminate(program, state, self._auc_images, real_labels)
        fake = discriminate(program, state, fakes[:AUC_IMAGES], fake_labels)
        if not all(np.isfinite(x).all() for x in (fakes, real, fake)):
            return Evaluation()
        begun = running_time()
        images = quantise(fakes)
        features = self.extractor(images)
        extracted = running_time()
        found = scores(self.real, features, self.extractor.classes(features), extras)
        return Evaluation(
            finite=True,
            scores=found,
            d_auc=discriminator_auc(real, fake),
            samples=images[shown_latents(latents, self.spec.pictures.images)],
            generate_seconds=generated - started,
            extract_seconds=extracted - begun,
            score_seconds=running_time() - extracted,
        )

    def scores(self, images: np.ndarray, extras: Collection[str]) -> Scores:
        """Score uint8 images (n, h, w, c)."""
        features = self.extractor(images)
        return scores(self.real, features, self.extractor.classes(features), extras)

    def fresh_samples(self, program: Program, generator: Generator) -> np.ndarray:
        """Generate as many uint8 images as an evaluation does, from other latents.

        The best of many noisy evaluations is biased: fresh latents give an unbiased estimate.
        """
        return draw(program, generator, self._latents(FRESH, program))

    def _latents(self, purpose: int, program: Program) -> Latents:
        count, shares = self.spec.metrics.samples, self._shares_for(program)
        return fixed_latents(latent_seed(self.spec, purpose), count, program.latent_dim, shares)

    def _shares_for(self, program: Program) -> list[float]:
        return self._shares if program.classes else []


def shown_latents(latents: Latents, count: int) -> np.ndarray:
    """Indices of the latents to show: the first ones, or the first ones of each class."""
    if latents.labels is None:
        return np.arange(min(count, len(latents.z)))
    labels = latents.labels
    classes = np.unique(labels)
    each = -(-count // len(classes))
    return np.concatenate([np.flatnonzero(labels == label)[:each] for label in classes])[:count]
