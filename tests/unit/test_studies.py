"""The shipped studies against published settings."""

from pathlib import Path

import pytest
from builders import DATASET
from r3gan_recipe import PRESETS

from tuner.spec.loading import load_spec
from tuner.spec.parameters import Range
from tuner.study.space import trial_config

STUDIES = Path(__file__).parents[2] / "studies"


@pytest.mark.parametrize(("name", "preset"), [("r3gan_32", "CIFAR-10"), ("r3gan_64", "FFHQ-64")])
def test_r3gans_baseline_is_the_authors_recipe(name: str, preset: str) -> None:
    spec, authors = load_spec(STUDIES / f"{name}.toml"), PRESETS[preset]
    program, h, *_ = trial_config(spec, spec.baseline[0], 0, DATASET)
    assert (program.loss, program.schedule) == ("relativistic", "cosine")
    assert (h.r1, h.r1_final) == (h.r2, h.r2_final) == authors.r1
    assert (h.generator_beta1, h.discriminator_beta1) == (0, 0)
    assert h.generator_beta2 == h.discriminator_beta2
    assert (h.generator_beta2, h.beta2_final) == authors.beta2
    rate, final = authors.learning_rate
    assert h.generator_learning_rate == h.discriminator_learning_rate == rate
    assert h.final_rate * rate == pytest.approx(final)
    assert (h.augment_probability, h.augment_probability_final) == authors.augment_probability
    assert h.ema_half_life == authors.ema_half_life[0]


@pytest.mark.parametrize(
    ("name", "preset", "burn_in", "images"),
    # The authors train for 250 million images on CIFAR-10, and for 1,000 million on ImageNet.
    [("r3gan_32", "CIFAR-10", 20 / 250, 60_000), ("r3gan_64", "FFHQ-64", 200 / 1000, 70_000)],
)
def test_r3gans_lengths_are_shares_of_the_training(
    name: str, preset: str, burn_in: float, images: int
) -> None:
    spec, authors = load_spec(STUDIES / f"{name}.toml"), PRESETS[preset]
    dataset = DATASET._replace(images=images)
    h = trial_config(spec, spec.baseline[0], 0, dataset).hyperparameters
    assert h.decay_images == pytest.approx(burn_in * h.total_images)
    half_life = authors.ema_half_life[1] / authors.burn_in * h.decay_images
    assert h.ema_half_life_final == pytest.approx(half_life, rel=0.01)


@pytest.mark.parametrize(("name", "preset"), [("r3gan_32", "CIFAR-10"), ("r3gan_64", "FFHQ-64")])
def test_r3gans_penalties_are_searched_around_the_authors(name: str, preset: str) -> None:
    trial = load_spec(STUDIES / f"{name}.toml").trial
    for setting, published in zip(("", "_final"), PRESETS[preset].r1, strict=True):
        for penalty in ("r1", "r2"):
            found = getattr(trial, penalty + setting)
            assert isinstance(found, Range)
            assert found.log
            assert found.low * 10 <= published * 1.001
            assert found.high >= 10 * published * 0.999
