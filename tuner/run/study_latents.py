"""The fixed latents of a study: a seed for each purpose, and which latents are shown."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from tuner.gan.sampling import (
    Latents,
    fixed_latents,
)
from tuner.spec.study import StudySpec

# Purposes of fixed latents, folded into the study's seed.
STATISTICS, EVALUATION, FRESH, PICTURES = range(4)


def latent_seed(spec: StudySpec, purpose: int) -> int:
    """The seed of the study's fixed latents for one purpose."""
    return int(np.random.SeedSequence((spec.study.seed, purpose, 1)).generate_state(1)[0])


def latents_digest(spec: StudySpec) -> str:
    """Hash the first latents of an evaluation, which depend on the seed and on JAX's settings."""
    z = fixed_latents(latent_seed(spec, EVALUATION), 8, 8).z
    return hashlib.sha256(z.tobytes()).hexdigest()[:8]


def shown_latents(latents: Latents, count: int) -> np.ndarray:
    """Indices of the latents to show: the first ones, or the first ones of each class."""
    return first_of_each_class(len(latents.z), latents.labels, count)


def first_of_each_class(total: int, labels: NDArray[np.integer] | None, count: int) -> np.ndarray:
    """The first ``count`` of ``total`` indices; with labels, the first ones of each class, whose
    counts differ by at most one."""
    if labels is None:
        return np.arange(min(count, total))
    classes = np.unique(labels)
    each = [count // len(classes) + (i < count % len(classes)) for i in range(len(classes))]
    found = [np.flatnonzero(labels == label)[:n] for label, n in zip(classes, each, strict=True)]
    return np.concatenate(found)
