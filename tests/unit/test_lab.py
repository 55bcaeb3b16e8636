"""What a study's trials are measured with: the same every time, and not where it makes no sense."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tuner.data import ImageSet
from tuner.errors import InputError
from tuner.gan.sampling import Latents, draw, fixed_latents
from tuner.gan.state import init_state
from tuner.metrics.frechet import frechet_distance, reference
from tuner.run.files import StudyFiles
from tuner.run.lab import (
    EVALUATION,
    Lab,
    Measurement,
    check_labels,
    latent_seed,
    latents_digest,
)
from tuner.run.sharing import shared_measures
from tuner.run.stores import open_store
from tuner.spec import StudySpec
from tuner.specfile import parse_spec
from tuner.study.space import trial_config


def spec_of(features: str) -> StudySpec:
    table = {
        "trial": {"width": 2, "latent_dim": 8, "batch_size": 8},
        "metrics": {"features": features, "samples": 30},
    }
    return parse_spec(table, "test")


def image_set(count: int = 60, *, labelled: bool = True) -> ImageSet:
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    images = rng.integers(0, 100, (count, 32, 32, 1), np.uint8)
    images[labels == 1] += 100
    return ImageSet(images, labels if labelled else None, "a-fingerprint")


def lab_of(spec: StudySpec, images: ImageSet, folder: Path) -> Lab:
    files = StudyFiles(open_store(str(folder)), "study").begin("a token")
    extractor, real = shared_measures(spec, images, files, None, print)
    return Lab(spec, images, extractor, real)


def test_what_a_classifier_can_not_be_trained_on() -> None:
    with pytest.raises(InputError, match="images without labels, expected 'random'"):
        check_labels(spec_of("classifier"), image_set(labelled=False))
    with pytest.raises(InputError, match="with 20 images, expected at least 50"):
        check_labels(spec_of("classifier"), image_set(20))
    check_labels(spec_of("classifier"), image_set(50))
    check_labels(spec_of("random"), image_set(20, labelled=False))


def test_measurements(tmp_path: Path) -> None:
    spec, images = spec_of("random"), image_set(labelled=False)
    lab = lab_of(spec, images, tmp_path)
    program, hyperparameters, seed, _ = trial_config(spec, {}, 0, lab.premises)
    state = init_state(program, hyperparameters, seed)
    generator = lab.generator(program, state)
    found = lab.measure(program, state, generator)
    again = lab.measure(program, state, generator)
    assert (found.scores, found.d_auc) == (again.scores, again.d_auc)
    assert found.finite
    real = lab.extractor(images.images)
    samples = lab.fresh_samples(program, generator)
    expected = frechet_distance(reference(real), lab.extractor(samples))
    assert lab.scores(samples, ()).fid == pytest.approx(expected, rel=1e-9)
    assert found.scores.fid == pytest.approx(expected, rel=0.5)
    assert min(found.generate_seconds, found.extract_seconds, found.score_seconds) > 0
    assert lab.real_fid()[1] == 30
    assert 0 < lab.real_fid()[0] < expected


def test_people_see_the_same_latents_every_time(tmp_path: Path) -> None:
    spec, images = spec_of("random"), image_set(labelled=False)
    lab = lab_of(spec, images, tmp_path)
    program, hyperparameters, seed, _ = trial_config(spec, {}, 0, lab.premises)
    shown = []
    for number in (seed, seed, seed + 1):
        state = init_state(program, hyperparameters, number)
        generator = lab.generator(program, state)
        shown.append(lab.measure(program, state, generator).samples)
        latents = fixed_latents(
            latent_seed(spec, EVALUATION), spec.metrics.samples, program.latent_dim
        )
        np.testing.assert_array_equal(shown[-1], draw(program, generator, latents))
    assert shown[0] is not None
    assert shown[0].shape == (30, *images.shape)  # no more than are evaluated
    np.testing.assert_array_equal(shown[0], shown[1])
    assert (shown[0] != shown[2]).any()


def test_people_see_every_class(tmp_path: Path) -> None:
    spec, images = spec_of("random"), image_set(labelled=True)
    lab = lab_of(spec, images, tmp_path)
    labels = jnp.array([3, 3, 3, 3, 1, 3, 1, 0, 1, 3] * 10)
    found = lab._shown(Latents(jnp.zeros((100, 4)), labels))
    assert list(labels[found]) == [0] * 10 + [1] * 12 + [3] * 12
    assert list(found[10:13]) == [4, 6, 8]  # of each class the first ones


def test_what_is_not_finite_is_not_measured(tmp_path: Path) -> None:
    spec, images = spec_of("random"), image_set(labelled=False)
    lab = lab_of(spec, images, tmp_path)
    program, hyperparameters, seed, _ = trial_config(spec, {}, 0, lab.premises)
    state = init_state(program, hyperparameters, seed)
    for part in ("generator", "discriminator"):
        weights = jax.tree.map(lambda x: jnp.full_like(x, jnp.inf), getattr(state, part))
        bad = state._replace(**{part: weights})
        generator = lab.generator(program, bad)
        assert lab.measure(program, bad, generator) == Measurement()


def test_latents_are_known_by_their_values() -> None:
    spec, other = spec_of("random"), spec_of("random")
    assert latents_digest(spec) == latents_digest(other)
    reseeded = spec.model_copy(update={"study": spec.study.model_copy(update={"seed": 1})})
    assert latents_digest(reseeded) != latents_digest(spec)
    before = latents_digest(spec)
    with jax.threefry_partitionable(False):  # JAX draws other numbers then
        assert latents_digest(spec) != before
