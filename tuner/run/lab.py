"""What a study's trials share on a device: images, extractor, reference statistics, latents."""

from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tuner.data import ImageSet
from tuner.errors import InputError
from tuner.gan.sampling import (
    Generator,
    all_finite,
    discriminate,
    draw,
    fixed_latents,
    generate,
    generator_of,
)
from tuner.gan.state import GanState
from tuner.gan.training import quantise
from tuner.metrics.features import Extractor
from tuner.metrics.frechet import Reference, frechet_distance, reference
from tuner.metrics.health import discriminator_auc, variance_ratio
from tuner.spec import StudySpec
from tuner.trial import Program

AUC_IMAGES = 1000
FEWEST_LABELLED = 50
# What fixed latents are for, folded into the study's seed.
STATISTICS, EVALUATION, FRESH, PICTURES = range(4)


class Measurement(NamedTuple):
    """An evaluation's results; the distances are None where something was not finite."""

    fid: float | None
    d_auc: float | None
    variance_ratio: float | None
    finite: bool


class Lab:
    """Measures generators, the same way for every trial of a study."""

    def __init__(
        self, spec: StudySpec, images: ImageSet, extractor: Extractor, real: Reference
    ) -> None:
        """``real`` is the extractor's view of the images: see ``sharing``."""
        self.spec, self.image_set = spec, images
        self.extractor, self.reference = extractor, real
        self.images: Array = jax.device_put(images.images)
        chosen = np.random.default_rng(spec.study.seed).permutation(len(images.images))
        self._reals = self.images[np.sort(chosen[:AUC_IMAGES])]

    @cached_property
    def _real_features(self) -> np.ndarray:
        return self.extractor(self.images)

    def seed(self, purpose: int) -> int:
        return int(np.random.SeedSequence((self.spec.study.seed, purpose, 1)).generate_state(1)[0])

    def generator(self, program: Program, state: GanState) -> Generator:
        return generator_of(program, state, self.seed(STATISTICS))

    def measure(self, program: Program, state: GanState, generator: Generator) -> Measurement:
        """Evaluate a trial's generator and discriminator on the study's latents and images."""
        z = fixed_latents(self.seed(EVALUATION), self.spec.metrics.samples, program.latent_dim)
        fakes = np.concatenate(jax.device_get(list(generate(program, generator, z))))
        if not bool(all_finite(state)) or not np.isfinite(fakes).all():
            return Measurement(None, None, None, False)
        features = self.extractor(quantise(jnp.asarray(fakes)))
        judged = self._reals, jnp.asarray(fakes[:AUC_IMAGES])
        real_logits, fake_logits = jax.device_get([discriminate(program, state, x) for x in judged])
        if not np.isfinite(real_logits).all() or not np.isfinite(fake_logits).all():
            return Measurement(None, None, None, False)
        return Measurement(
            fid=frechet_distance(self.reference, features),
            d_auc=discriminator_auc(real_logits, fake_logits),
            variance_ratio=variance_ratio(features, self.reference.trace),
            finite=True,
        )

    def fid(self, images: np.ndarray) -> float:
        """FID of uint8 images (n, h, w, c)."""
        return frechet_distance(self.reference, self.extractor(images))

    def fresh_samples(self, program: Program, generator: Generator) -> np.ndarray:
        """As many uint8 images as an evaluation uses, from latents that had no part in it: the
        best of many noisy numbers flatters."""
        z = fixed_latents(self.seed(FRESH), self.spec.metrics.samples, program.latent_dim)
        return draw(program, generator, z)

    def real_fid(self) -> tuple[float, int]:
        """FID of real against real images: two disjoint random sets of the size returned."""
        count = min(self.spec.metrics.samples, len(self._real_features) // 2)
        order = np.random.default_rng(0).permutation(len(self._real_features))
        halves = self._real_features[order[:count]], self._real_features[order[count : 2 * count]]
        return frechet_distance(reference(halves[0]), halves[1]), count


def check_labels(spec: StudySpec, images: ImageSet) -> None:
    """InputError where the study's extractor can't be made of these images."""
    if spec.metrics.features == "random":
        return
    if images.labels is None:
        raise InputError(
            "metrics.features: found 'classifier' with images without labels, expected 'random'"
        )
    if len(images.images) < FEWEST_LABELLED:
        raise InputError(
            f"metrics.features: found 'classifier' with {len(images.images)} images, expected at "
            f"least {FEWEST_LABELLED}, or 'random'"
        )
