"""Evaluation of trials: repeatable scores, samples for display, non-finite images."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from tuner.data import ImageSet
from tuner.errors import InputError
from tuner.files.stores import open_store
from tuner.files.study_files import StudyFiles
from tuner.gan.sampling import CHUNK, Latents, draw, fixed_latents
from tuner.gan.state import init_state
from tuner.metrics import extractors
from tuner.metrics.evaluate import real_against_real
from tuner.metrics.extractors import Weights
from tuner.metrics.fid import frechet_distance, reference
from tuner.run.evaluator import Evaluation, Evaluator
from tuner.run.sharing import shared_measures
from tuner.run.startup import check_data
from tuner.run.study_latents import EVALUATION, latent_seed, latents_digest, shown_latents
from tuner.spec.loading import parse_spec
from tuner.spec.study import StudySpec
from tuner.study.space import trial_config
from tuner.xla import jit


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


def evaluator_of(spec: StudySpec, images: ImageSet, folder: Path) -> Evaluator:
    files = StudyFiles(open_store(str(folder)), "study").begin("a token")
    extractor, real = shared_measures(spec, images, files, None, print)
    return Evaluator(spec, images, extractor, real)


def test_data_unfit_for_a_classifier_is_refused() -> None:
    with pytest.raises(InputError, match="needs images with labels; use 'random' or 'inception'"):
        check_data(spec_of("classifier"), image_set(labelled=False))
    with pytest.raises(InputError, match="needs at least 50 images, not 20; use 'random'"):
        check_data(spec_of("classifier"), image_set(20))
    check_data(spec_of("classifier"), image_set(50))
    check_data(spec_of("random"), image_set(24, labelled=False))


def test_measurements_repeat_and_agree_with_the_fid(tmp_path: Path) -> None:
    spec, images = spec_of("random"), image_set(labelled=False)
    evaluator = evaluator_of(spec, images, tmp_path)
    program, hyperparameters, seed, _ = trial_config(spec, {}, 0, evaluator.dataset)
    state = init_state(program, hyperparameters, seed)
    generator = evaluator.generator(program, state)
    found = evaluator.measure(program, state, generator)
    again = evaluator.measure(program, state, generator)
    assert (found.scores, found.d_auc) == (again.scores, again.d_auc)
    assert found.finite
    assert evaluator.shown_images.shape == (36, *images.shape)
    assert {image.tobytes() for image in evaluator.shown_images} <= set(map(bytes, images.images))
    real = evaluator.extractor(images.images)
    samples = evaluator.fresh_samples(program, generator)
    expected = frechet_distance(reference(real), evaluator.extractor(samples))
    assert evaluator.scores(samples, ())["fid"] == pytest.approx(expected, rel=1e-9)
    assert found.scores["fid"] == pytest.approx(expected, rel=0.5)
    assert min(found.generate_seconds, found.extract_seconds, found.score_seconds) > 0
    real_fid, count = real_against_real(evaluator.real)
    assert 0 < real_fid < expected
    assert count == 30


def test_displayed_samples_use_the_same_latents_every_epoch(tmp_path: Path) -> None:
    spec, images = spec_of("random"), image_set(labelled=False)
    evaluator = evaluator_of(spec, images, tmp_path)
    program, hyperparameters, seed, _ = trial_config(spec, {}, 0, evaluator.dataset)
    shown = []
    for number in (seed, seed, seed + 1):
        state = init_state(program, hyperparameters, number)
        generator = evaluator.generator(program, state)
        shown.append(evaluator.measure(program, state, generator).samples)
        latents = fixed_latents(
            latent_seed(spec, EVALUATION), spec.metrics.samples, program.latent_dim
        )
        np.testing.assert_array_equal(shown[-1], draw(program, generator, latents))
    assert shown[0] is not None
    assert shown[0].shape == (30, *images.shape)  # no more than are scored
    np.testing.assert_array_equal(shown[0], shown[1])
    assert (shown[0] != shown[2]).any()


def test_displayed_samples_cover_every_class() -> None:
    labels = np.array([3, 3, 3, 3, 1, 3, 1, 0, 1, 3] * 10, np.int32)
    found = shown_latents(Latents(np.zeros((100, 4), np.float32), labels), 36)
    assert list(labels[found]) == [0] * 10 + [1] * 12 + [3] * 12
    assert list(found[10:13]) == [4, 6, 8]  # the first ones of each class
    some = shown_latents(
        Latents(np.zeros((100, 4), np.float32), np.arange(100, dtype=np.int32) % 10), 36
    )
    assert np.bincount(some % 10).tolist() == [4] * 6 + [3] * 4


def test_the_extractor_compiles_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For real and generated images alike, and for every program."""
    traced = []

    def features(weights: Weights, images: Array) -> Array:
        traced.append(images.shape)
        return extractors._features(weights, images)

    monkeypatch.setattr(extractors, "_compiled_features", jit(features))
    spec, images = spec_of("random"), image_set(300, labelled=False)
    evaluator = evaluator_of(spec, images, tmp_path)
    for width in (2, 3):
        program, hyperparameters, seed, _ = trial_config(spec, {}, 0, evaluator.dataset)
        program = program._replace(width=width)
        state = init_state(program, hyperparameters, seed)
        assert evaluator.measure(program, state, evaluator.generator(program, state)).finite
    assert traced == [(CHUNK, 32, 32, 1)]


def test_more_images_than_a_chunk_are_measured_like_all_at_once(tmp_path: Path) -> None:
    spec, images = spec_of("random"), image_set(labelled=False)
    metrics = spec.metrics.model_copy(update={"samples": 2 * CHUNK + 5})
    spec = spec.model_copy(update={"metrics": metrics})
    evaluator = evaluator_of(spec, images, tmp_path)
    program, hyperparameters, seed, _ = trial_config(spec, {}, 0, evaluator.dataset)
    state = init_state(program, hyperparameters, seed)
    generator = evaluator.generator(program, state)
    found = evaluator.measure(program, state, generator)
    latents = fixed_latents(latent_seed(spec, EVALUATION), 2 * CHUNK + 5, program.latent_dim)
    drawn = draw(program, generator, latents)
    assert len(drawn) == 2 * CHUNK + 5
    assert found.scores == evaluator.scores(drawn, ())
    assert found.samples is not None
    np.testing.assert_array_equal(found.samples, drawn[:36])


def test_non_finite_images_are_not_measured(tmp_path: Path) -> None:
    spec, images = spec_of("random"), image_set(labelled=False)
    evaluator = evaluator_of(spec, images, tmp_path)
    program, hyperparameters, seed, _ = trial_config(spec, {}, 0, evaluator.dataset)
    state = init_state(program, hyperparameters, seed)
    for part in ("generator", "discriminator"):
        weights = jax.tree.map(lambda x: jnp.full_like(x, jnp.inf), getattr(state, part))
        bad = state._replace(**{part: weights})
        generator = evaluator.generator(program, bad)
        assert evaluator.measure(program, bad, generator) == Evaluation()


def test_samples_are_shown_with_the_training_images_nearest_to_them(tmp_path: Path) -> None:
    spec, images = spec_of("random"), image_set(120, labelled=False)
    pixels = images.images
    images = ImageSet(pixels[:60], None, "with-held-out-images", held_out=pixels[60:])
    evaluator = evaluator_of(spec, images, tmp_path)
    strips = evaluator.nearest(images.images[:20])
    assert strips is not None
    assert strips.shape == (12, 6, *images.shape)
    np.testing.assert_array_equal(strips[:, 0], images.images[:12])
    np.testing.assert_array_equal(strips[:, 1], images.images[:12])  # copies of themselves
    found = evaluator.scores(images.images, {"heldout"})
    assert (found["copied"] or 0) > 0.9
    whole = evaluator_of(spec, image_set(labelled=False), tmp_path / "whole")
    assert whole.nearest(images.images) is None


def test_the_latents_digest_depends_on_their_values() -> None:
    spec, other = spec_of("random"), spec_of("random")
    assert latents_digest(spec) == latents_digest(other)
    reseeded = spec.model_copy(update={"study": spec.study.model_copy(update={"seed": 1})})
    assert latents_digest(reseeded) != latents_digest(spec)
    before = latents_digest(spec)
    with jax.threefry_partitionable(False):  # JAX then draws other numbers
        assert latents_digest(spec) != before
