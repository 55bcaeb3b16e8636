"""What a study's trials share on a device: images, extractor, reference statistics, latents."""

import hashlib
import os
import time
from collections.abc import Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tuner import places
from tuner.data import ImageSet
from tuner.errors import InputError
from tuner.gan.feeding import Images
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
from tuner.metrics.features import Extractor
from tuner.metrics.health import discriminator_auc
from tuner.metrics.suite import RealSide, Scores, real_against_real, scores
from tuner.spec import StudySpec
from tuner.trial import Premises, Program

AUC_IMAGES = 1000
IMAGE_SHARE = 0.4  # of the device's memory, that images may take
FEWEST_LABELLED = 50
# What fixed latents are for, folded into the study's seed.
STATISTICS, EVALUATION, FRESH, PICTURES = range(4)


class Measurement(NamedTuple):
    """An evaluation's results, empty where something was not finite, and the seconds it took to
    generate images, to extract their features and to compute numbers from those."""

    finite: bool = False
    scores: Scores = Scores()
    d_auc: float | None = None
    samples: np.ndarray | None = None  # uint8 (n, h, w, c), of the same latents every time
    generate_seconds: float = 0.0
    extract_seconds: float = 0.0
    score_seconds: float = 0.0


def premises_of(images: ImageSet, sources: tuple[tuple[str, str], ...] = ()) -> Premises:
    """What the images, and the ``sources`` of networks, make of a study's trials."""
    classes = 0 if images.labels is None else int(images.labels.max()) + 1
    return Premises(images.shape, len(images.images), classes, sources)


def image_memory() -> float:
    """Bytes that images may take on the device: a share of its memory, or what the variable says.
    A larger set is streamed."""
    given = places.image_memory()
    if given is not None:
        return given
    found = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in found:
        return IMAGE_SHARE * float(found["bytes_limit"])
    return IMAGE_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def latent_seed(spec: StudySpec, purpose: int) -> int:
    """The seed of the study's fixed latents."""
    return int(np.random.SeedSequence((spec.study.seed, purpose, 1)).generate_state(1)[0])


def latents_digest(spec: StudySpec) -> str:
    """A hash of such latents as the study's evaluations begin with: they depend on the seed, and on
    how this machine's JAX is set up to draw."""
    z = np.asarray(fixed_latents(latent_seed(spec, EVALUATION), 8, 8).z)
    return hashlib.sha256(z.tobytes()).hexdigest()[:8]


class Lab:
    """Measures generators, the same way for every trial of a study."""

    def __init__(
        self,
        spec: StudySpec,
        images: ImageSet,
        extractor: Extractor,
        real: RealSide,
        sources: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """``real`` is the extractor's view of the images: see ``sharing``; ``sources`` are of
        networks that are not tuner's own."""
        self.spec, self.image_set = spec, images
        self.premises = premises_of(images, sources)
        self.extractor, self.real = extractor, real
        self.images: Images = images.images
        if images.images.nbytes <= image_memory():
            self.images = jax.device_put(images.images)
        self.labels: Array | None = None
        self._shares = list[float]()  # of the classes
        if images.labels is not None:
            self.labels = jax.device_put(images.labels.astype(np.int32))
            self._shares = list(np.bincount(images.labels) / len(images.labels))
        chosen = np.random.default_rng(spec.study.seed).permutation(len(images.images))
        self._judged = np.sort(chosen[:AUC_IMAGES])
        self._reals = jax.device_put(images.images[self._judged])

    def seed(self, purpose: int) -> int:
        return latent_seed(self.spec, purpose)

    def generator(self, program: Program, state: GanState) -> Generator:
        return generator_of(program, state, self.seed(STATISTICS), self._shares_for(program))

    def measure(
        self, program: Program, state: GanState, generator: Generator, extras: Collection[str] = ()
    ) -> Measurement:
        """Evaluate a trial's generator and discriminator on the study's latents and images.

        ``extras`` as in ``metrics.suite.scores``.
        """
        started = time.perf_counter()
        latents = self._latents(EVALUATION, program)
        fakes = np.concatenate(jax.device_get(list(generate(program, generator, latents))))
        generated = time.perf_counter()
        real_logits, fake_logits = self._opinions(program, state, fakes, latents)
        if not all(np.isfinite(x).all() for x in (fakes, real_logits, fake_logits)):
            return Measurement()
        begun = time.perf_counter()
        images = quantise(jnp.asarray(fakes))
        features = self.extractor(images)
        extracted = time.perf_counter()
        found = scores(self.real, features, self.extractor.classes(features), extras)
        return Measurement(
            finite=True,
            scores=found,
            d_auc=discriminator_auc(real_logits, fake_logits),
            samples=np.asarray(images[self._shown(latents)]),
            generate_seconds=generated - started,
            extract_seconds=extracted - begun,
            score_seconds=time.perf_counter() - extracted,
        )

    def scores(self, images: np.ndarray, extras: Collection[str]) -> Scores:
        """What uint8 images (n, h, w, c) are worth."""
        features = self.extractor(images)
        return scores(self.real, features, self.extractor.classes(features), extras)

    def fresh_samples(self, program: Program, generator: Generator) -> np.ndarray:
        """As many uint8 images as an evaluation uses, from latents that had no part in it: the
        best of many noisy numbers flatters."""
        return draw(program, generator, self._latents(FRESH, program))

    def _latents(self, purpose: int, program: Program) -> Latents:
        count, shares = self.spec.metrics.samples, self._shares_for(program)
        return fixed_latents(self.seed(purpose), count, program.latent_dim, shares)

    def _shown(self, latents: Latents) -> np.ndarray:
        """Which of the latents are for people to see: the first, or the first of each class."""
        count = self.spec.pictures.images
        if latents.labels is None:
            return np.arange(min(count, len(latents.z)))
        labels = np.asarray(latents.labels)
        each = -(-count // max(len(np.unique(labels)), 1))
        found = [np.flatnonzero(labels == label)[:each] for label in np.unique(labels)]
        return np.concatenate(found)[:count]

    def _shares_for(self, program: Program) -> list[float]:
        return self._shares if program.classes else []

    def _opinions(
        self, program: Program, state: GanState, fakes: np.ndarray, latents: Latents
    ) -> tuple[np.ndarray, np.ndarray]:
        """D's logits of a fixed thousand of the real images, and of as many fakes, each side in
        batches of its own."""
        real_labels = None
        if program.classes and self.labels is not None:
            real_labels = self.labels[self._judged]
        fake_labels = None if latents.labels is None else latents.labels[:AUC_IMAGES]
        real = discriminate(program, state, self._reals, real_labels)
        fake = discriminate(program, state, jnp.asarray(fakes[:AUC_IMAGES]), fake_labels)
        real_logits, fake_logits = jax.device_get((real, fake))
        return real_logits, fake_logits

    def real_fid(self) -> tuple[float, int]:
        """FID of real against real images: two disjoint random sets of the size returned."""
        return real_against_real(self.real)


def check_labels(spec: StudySpec, images: ImageSet) -> None:
    """InputError where the study's extractor can't be made of these images."""
    if spec.metrics.features != "classifier":
        return
    if images.labels is None:
        raise InputError(
            "metrics.features: found 'classifier' with images without labels, expected 'random' "
            "or 'inception'"
        )
    if len(images.images) < FEWEST_LABELLED:
        raise InputError(
            f"metrics.features: found 'classifier' with {len(images.images)} images, expected at "
            f"least {FEWEST_LABELLED}, or 'random'"
        )
