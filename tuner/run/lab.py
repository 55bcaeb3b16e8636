"""What a study's trials share on a device: images, extractor, reference statistics, latents."""

import hashlib
import time
from collections.abc import Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tuner.data import ImageSet
from tuner.errors import InputError
from tuner.gan.sampling import (
    Generator,
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
from tuner.trial import Program

AUC_IMAGES = 1000
FEWEST_LABELLED = 50
# What fixed latents are for, folded into the study's seed.
STATISTICS, EVALUATION, FRESH, PICTURES = range(4)


class Measurement(NamedTuple):
    """An evaluation's results, empty where something was not finite, and the seconds it took to
    generate images, to extract their features and to compute numbers from those."""

    finite: bool = False
    scores: Scores = Scores()
    d_auc: float | None = None
    generate_seconds: float = 0.0
    extract_seconds: float = 0.0
    score_seconds: float = 0.0


def latent_seed(spec: StudySpec, purpose: int) -> int:
    """The seed of the study's fixed latents."""
    return int(np.random.SeedSequence((spec.study.seed, purpose, 1)).generate_state(1)[0])


def latents_digest(spec: StudySpec) -> str:
    """A hash of such latents as the study's evaluations begin with: they depend on the seed, and on
    how this machine's JAX is set up to draw."""
    z = np.asarray(fixed_latents(latent_seed(spec, EVALUATION), 8, 8))
    return hashlib.sha256(z.tobytes()).hexdigest()[:8]


class Lab:
    """Measures generators, the same way for every trial of a study."""

    def __init__(
        self, spec: StudySpec, images: ImageSet, extractor: Extractor, real: RealSide
    ) -> None:
        """``real`` is the extractor's view of the images: see ``sharing``."""
        self.spec, self.image_set = spec, images
        self.extractor, self.real = extractor, real
        self.images: Array = jax.device_put(images.images)
        chosen = np.random.default_rng(spec.study.seed).permutation(len(images.images))
        self._reals = self.images[np.sort(chosen[:AUC_IMAGES])]

    def seed(self, purpose: int) -> int:
        return latent_seed(self.spec, purpose)

    def generator(self, program: Program, state: GanState) -> Generator:
        return generator_of(program, state, self.seed(STATISTICS))

    def measure(
        self, program: Program, state: GanState, generator: Generator, extras: Collection[str] = ()
    ) -> Measurement:
        """Evaluate a trial's generator and discriminator on the study's latents and images.

        ``extras`` as in ``metrics.suite.scores``.
        """
        started = time.perf_counter()
        z = fixed_latents(self.seed(EVALUATION), self.spec.metrics.samples, program.latent_dim)
        fakes = np.concatenate(jax.device_get(list(generate(program, generator, z))))
        generated = time.perf_counter()
        judged = self._reals, jnp.asarray(fakes[:AUC_IMAGES])
        real_logits, fake_logits = jax.device_get([discriminate(program, state, x) for x in judged])
        if not all(np.isfinite(x).all() for x in (fakes, real_logits, fake_logits)):
            return Measurement()
        begun = time.perf_counter()
        features = self.extractor(quantise(jnp.asarray(fakes)))
        extracted = time.perf_counter()
        found = scores(self.real, features, self.extractor.classes(features), extras)
        return Measurement(
            finite=True,
            scores=found,
            d_auc=discriminator_auc(real_logits, fake_logits),
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
        z = fixed_latents(self.seed(FRESH), self.spec.metrics.samples, program.latent_dim)
        return draw(program, generator, z)

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
