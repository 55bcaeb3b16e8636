"""``Evaluator``: measures all trials of a study on the same images and latents."""

from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from tuner.data import ImageSet
from tuner.gan.input_pipeline import Images
from tuner.gan.sampling import (
    CHUNK,
    Generator,
    Latents,
    discriminate,
    draw,
    fixed_latents,
    generator_of,
    padded,
)
from tuner.gan.state import GanState
from tuner.gan.training import normalise
from tuner.metrics.diagnostics import discriminator_auc
from tuner.metrics.evaluate import (
    NO_SCORES,
    ReferenceStatistics,
    Scores,
    compared_images,
    sampled_images,
    scores,
)
from tuner.metrics.extractors import Extractor, joined
from tuner.metrics.own import Sample, own_metrics
from tuner.run.custom_networks import Sources
from tuner.run.device_memory import image_memory
from tuner.run.generation import generate_features
from tuner.run.study_latents import (
    EVALUATION,
    FRESH,
    STATISTICS,
    first_of_each_class,
    latent_seed,
    shown_latents,
)
from tuner.spec.study import StudySpec
from tuner.trial import DatasetInfo, Program
from tuner.xla import running_time

AUC_IMAGES = 1000
AUC_CHUNKS = -(-AUC_IMAGES // CHUNK)
STRIPS, NEIGHBOURS = 12, 5  # samples that are shown with their nearest training images


class Evaluation(NamedTuple):
    """The results of an evaluation; empty unless everything was finite.

    The seconds of generating images, extracting features and computing scores exclude compilation.
    """

    finite: bool = False
    scores: Scores = NO_SCORES
    own: Mapping[str, float] = {}  # custom metrics
    d_auc: float | None = None
    samples: np.ndarray | None = None  # uint8 (n, h, w, c), of the same latents every time
    generate_seconds: float = 0.0
    extract_seconds: float = 0.0
    score_seconds: float = 0.0


def dataset_info(images: ImageSet, sources: Sources = ()) -> DatasetInfo:
    """Dataset facts shared by all trials, with the ``sources`` of custom networks."""
    classes = 0 if images.labels is None else int(images.labels.max()) + 1
    return DatasetInfo(images.shape, len(images.images), classes, sources)


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
        self.shown_images = _shown_images(images, chosen[:AUC_IMAGES], spec.pictures.images)
        chosen = np.sort(chosen[:AUC_IMAGES])
        reals = normalise(np.asarray(images.images[chosen]))
        chunks = [padded(reals[start : start + CHUNK]) for start in range(0, len(reals), CHUNK)]
        self._auc_images, self._auc_count = _padded_chunks(jax.device_put(chunks)), len(reals)
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
        self,
        program: Program,
        state: GanState,
        generator: Generator,
        extras: Collection[str] = (),
        released: Callable[[], None] = lambda: None,
    ) -> Evaluation:
        """Evaluate a trial's generator and discriminator on the study's latents and images.

        ``extras`` as in ``metrics.evaluate.scores``. ``released`` is called once the device has
        nothing left to compute, if all was finite; never, if the scores need the device.
        """
        latents = self._latents(EVALUATION, program)
        shown = shown_latents(latents, self.spec.pictures.images)
        kept = range(-(-len(latents.z) // CHUNK)) if self.spec.metrics.own else set(shown // CHUNK)
        made = generate_features(self.extractor, program, generator, latents, AUC_CHUNKS, kept)
        generate_seconds, extract_seconds = made.generate_seconds, made.extract_seconds
        d_auc = self._d_auc(program, state, made.images, latents)
        if d_auc is None or not all(jax.device_get(made.finite)):
            return Evaluation()
        begun = running_time()
        features = joined(made.features, len(latents.z))
        pixels = jax.device_get(made.pixels)
        del made  # frees device memory
        extracted = running_time()
        if not extras and not self.spec.metrics.own:
            released()
        found = scores(self.real, features, self.extractor.classes(features), extras)
        own: Mapping[str, float] = {}
        if self.spec.metrics.own:
            own = self._own(Sample(features, np.concatenate([*pixels.values()])[: len(features)]))
        scored = running_time()
        samples = [pixels[i // CHUNK][i % CHUNK] for i in shown]
        return Evaluation(
            finite=True,
            scores=found,
            own=own,
            d_auc=d_auc,
            samples=np.array(samples, np.uint8).reshape(-1, *program.image_shape),
            generate_seconds=generate_seconds,
            extract_seconds=extract_seconds + extracted - begun,
            score_seconds=scored - extracted,
        )

    def _d_auc(
        self, program: Program, state: GanState, fakes: list[Array], latents: Latents
    ) -> float | None:
        """D's AUC, for as many real images and ``fakes``; None unless D's logits are finite."""
        real_labels = self._auc_labels if program.classes else None
        fake_labels = None if latents.labels is None else latents.labels[:AUC_IMAGES]
        count = min(len(latents.z), AUC_IMAGES)
        real = discriminate(program, state, self._auc_images, self._auc_count, real_labels)
        fake = discriminate(program, state, _padded_chunks(fakes), count, fake_labels)
        if not (np.isfinite(real).all() and np.isfinite(fake).all()):
            return None
        return discriminator_auc(real, fake)

    def scores(self, images: np.ndarray, extras: Collection[str]) -> Scores:
        """Score uint8 images (n, h, w, c), including custom metrics."""
        features = self.extractor(images)
        found = scores(self.real, features, self.extractor.classes(features), extras)
        return {**found, **self._own(Sample(features, images))}

    @cached_property
    def real_sample(self) -> Sample:
        """The real images that custom metrics compare with: at most twice as many as generated."""
        chosen = sampled_images(len(self.images), self.spec.metrics.samples)
        return Sample(self.real.features, np.asarray(self.images[chosen]))

    def _own(self, generated: Sample) -> Mapping[str, float]:
        """Custom metrics of generated images."""
        names = self.spec.metrics.own
        return own_metrics(names, self.real_sample, generated) if names else {}

    def nearest(self, samples: np.ndarray) -> np.ndarray | None:
        """The first samples, each followed by the training images nearest to it, uint8 (n, 1 + k,
        h, w, c); None if no images are held out."""
        if self.real.held_out is None:
            return None
        some = samples[:STRIPS]
        copies = self.real.held_out.copies
        indices = copies.nearest(self.extractor(some), NEIGHBOURS)
        near = compared_images(len(self.images))[indices]
        return np.concatenate([some[:, None], np.asarray(self.images[near])], axis=1)

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


def _padded_chunks(chunks: list[Array]) -> list[Array]:
    """Repeat the last chunk up to ``AUC_CHUNKS``, so that one program serves any number."""
    return chunks + chunks[-1:] * (AUC_CHUNKS - len(chunks))


def _shown_images(images: ImageSet, some: NDArray[np.integer], count: int) -> np.ndarray:
    """Real images to show next to generated ones, of those with the indices ``some``; if they have
    classes, in the order of a conditional generator's samples."""
    labels = None if images.labels is None else images.labels[some]
    return np.asarray(images.images[some[first_of_each_class(len(some), labels, count)]])
