"""What a study's trials share: the extractor's cache, and measurements of states gone bad."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tuner.data import ImageSet
from tuner.errors import InputError
from tuner.gan.state import init_state
from tuner.metrics.frechet import frechet_distance, reference
from tuner.run.lab import Lab, Measurement
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


@pytest.mark.parametrize("damage", [b"torn", b""])
def test_a_damaged_extractor_is_made_anew_and_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    monkeypatch.setattr("tuner.metrics.features.EPOCHS", 1)
    first = Lab(spec_of("classifier"), image_set(), tmp_path)
    [path] = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage)
    second = Lab(spec_of("classifier"), image_set(), tmp_path)
    for name, weight in first.extractor.weights.items():
        np.testing.assert_array_equal(weight, second.extractor.weights[name])
    assert first.extractor.accuracy == second.extractor.accuracy
    path.write_bytes(whole)
    before = path.stat().st_mtime_ns
    Lab(spec_of("classifier"), image_set(), tmp_path)
    assert path.stat().st_mtime_ns == before


def test_what_a_classifier_can_not_be_trained_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="images without labels, expected 'random'"):
        Lab(spec_of("classifier"), image_set(labelled=False), tmp_path)
    with pytest.raises(InputError, match="with 20 images, expected at least 50"):
        Lab(spec_of("classifier"), image_set(20), tmp_path)


def test_images_that_are_all_alike_are_refused(tmp_path: Path) -> None:
    black = image_set()._replace(images=np.zeros((60, 32, 32, 1), np.uint8))
    with pytest.raises(InputError, match="images that all look alike"):
        Lab(spec_of("random"), black, tmp_path)


def test_measurements(tmp_path: Path) -> None:
    spec, images = spec_of("random"), image_set(labelled=False)
    lab = Lab(spec, images, tmp_path)
    program, hyperparameters, seed, _ = trial_config(spec, {}, 0, images.shape)
    state = init_state(program, hyperparameters, seed)
    generator = lab.generator(program, state)
    found = lab.measure(program, state, generator)
    assert found == lab.measure(program, state, generator)
    assert found.finite
    real = lab.extractor(images.images)
    samples = lab.fresh_samples(program, generator)
    expected = frechet_distance(reference(real), lab.extractor(samples))
    assert lab.fid(samples) == pytest.approx(expected, rel=1e-9)
    assert found.fid == pytest.approx(expected, rel=0.5)
    assert lab.real_fid()[1] == 30
    assert 0 < lab.real_fid()[0] < expected


def test_what_is_not_finite_is_not_measured(tmp_path: Path) -> None:
    spec, images = spec_of("random"), image_set(labelled=False)
    lab = Lab(spec, images, tmp_path)
    program, hyperparameters, seed, _ = trial_config(spec, {}, 0, images.shape)
    state = init_state(program, hyperparameters, seed)
    for part in ("generator", "discriminator"):
        weights = jax.tree.map(lambda x: jnp.full_like(x, jnp.inf), getattr(state, part))
        bad = state._replace(**{part: weights})
        generator = lab.generator(program, bad)
        assert lab.measure(program, bad, generator) == Measurement(None, None, None, False)
