"""Adversarial losses against the papers' formulas."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tuner.gan.losses import LOSSES
from tuner.spec import traits

Loss = Callable[[np.ndarray, np.ndarray], float]

LN2, LN3 = math.log(2), math.log(3)


CROSS_ENTROPY = ("minimax", "non_saturating", "dragan", "gradient_normalized")
REAL, FAKE = np.array([0.0, LN3, -0.5]), np.array([LN3, 0.0, 2.0])


def sigmoid(x: np.ndarray) -> np.ndarray:
    probability: np.ndarray = 1 / (1 + np.exp(-x))
    return probability


# D's loss and G's loss of real and fake logits.
FORMULAS: dict[str, tuple[Loss, Loss]] = {
    "minimax": (
        lambda r, f: -np.log(sigmoid(r)).mean() - np.log(1 - sigmoid(f)).mean(),
        lambda r, f: np.log(1 - sigmoid(f)).mean(),
    ),
    "non_saturating": (
        lambda r, f: -np.log(sigmoid(r)).mean() - np.log(1 - sigmoid(f)).mean(),
        lambda r, f: -np.log(sigmoid(f)).mean(),
    ),
    "least_squares": (
        lambda r, f: ((r - 1) ** 2).mean() / 2 + (f**2).mean() / 2,
        lambda r, f: ((f - 1) ** 2).mean() / 2,
    ),
    "hinge": (
        lambda r, f: -np.minimum(0, r - 1).mean() - np.minimum(0, -f - 1).mean(),
        lambda r, f: -f.mean(),
    ),
    "wasserstein": (lambda r, f: -(r.mean() - f.mean()), lambda r, f: -f.mean()),
    "relativistic": (
        lambda r, f: -np.log(sigmoid(r - f)).mean(),
        lambda r, f: -np.log(sigmoid(f - r)).mean(),
    ),
}
FORMULAS["wasserstein_gp"] = FORMULAS["wasserstein"]
FORMULAS["dragan"] = FORMULAS["gradient_normalized"] = FORMULAS["non_saturating"]


def numeric_gradient(loss: Loss, real: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """Central differences of ``loss`` in the real logits, then in the fake ones."""
    flat, width = np.concatenate([real, fake]), 1e-6
    moved = width * np.eye(len(flat))
    count = len(real)
    return np.array(
        [
            (
                loss((flat + step)[:count], (flat + step)[count:])
                - loss((flat - step)[:count], (flat - step)[count:])
            )
            / (2 * width)
            for step in moved
        ]
    )


SMOOTHED = [name for name, loss in traits.LOSSES.items() if "label_smoothing" in loss.uses]


def test_every_loss_that_a_study_can_name_is_there() -> None:
    assert tuple(LOSSES) == tuple(traits.LOSSES)
    assert set(FORMULAS) == set(LOSSES)


@pytest.mark.parametrize("kind", LOSSES)
def test_values_and_gradients_equal_the_papers(kind: str) -> None:
    real, fake = jnp.float32(REAL), jnp.float32(FAKE)
    d_formula, g_formula = FORMULAS[kind]
    value, gradient = jax.value_and_grad(LOSSES[kind].discriminator, (0, 1))(real, fake, 0.0)
    assert float(value) == pytest.approx(d_formula(REAL, FAKE), rel=1e-6)
    np.testing.assert_allclose(
        np.concatenate(gradient), numeric_gradient(d_formula, REAL, FAKE), rtol=1e-4, atol=1e-6
    )
    value, gradient = jax.value_and_grad(LOSSES[kind].generator, (1, 0))(fake, real)
    assert float(value) == pytest.approx(g_formula(REAL, FAKE), rel=1e-6)
    np.testing.assert_allclose(
        np.concatenate(gradient), numeric_gradient(g_formula, REAL, FAKE), rtol=1e-4, atol=1e-6
    )
    assert LOSSES[kind].relative == (kind == "relativistic")


@pytest.mark.parametrize("kind", CROSS_ENTROPY)
def test_the_generators_measure_does_not_saturate(kind: str) -> None:
    fake = jnp.array([LN3, 0.0])
    measured = -(math.log(3 / 4) + math.log(1 / 2)) / 2
    assert float(LOSSES[kind].generator_measure(fake, fake)) == pytest.approx(measured, rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "undecided", "d_loss", "g_measure"),
    [
        *((kind, 0.0, 2 * LN2, LN2) for kind in CROSS_ENTROPY),
        ("least_squares", 0.5, 1 / 4, 1 / 8),  # the targets 1 and 0 are equally likely
        ("relativistic", 3.0, LN2, LN2),  # for any equal logits
    ],
)
def test_losses_at_equilibrium_are_known(
    kind: str, undecided: float, d_loss: float, g_measure: float
) -> None:
    """Real and fake logits have the same distribution, for which the optimal D is known."""
    loss, logits = LOSSES[kind], jnp.full(4, undecided)
    assert loss.indifference == pytest.approx((d_loss, g_measure), rel=1e-12)
    value, (real, fake) = jax.value_and_grad(loss.discriminator, (0, 1))(logits, logits, 0.0)
    assert float(value) == pytest.approx(d_loss, rel=1e-6)
    np.testing.assert_allclose(real + fake, 0, atol=1e-7)  # the loss is at its minimum
    assert float(loss.generator_measure(logits, logits)) == pytest.approx(g_measure, rel=1e-6)


@pytest.mark.parametrize("kind", ["hinge", "wasserstein", "wasserstein_gp"])
def test_some_losses_have_no_equilibrium_value(kind: str) -> None:
    assert LOSSES[kind].indifference is None


@pytest.mark.parametrize("kind", SMOOTHED)
def test_label_smoothing_moves_the_target_to_0_9(kind: str) -> None:
    """The cross-entropy or the squared error to a target of 0.9."""
    real, fake = jnp.float32(REAL), jnp.float32(FAKE)
    p = sigmoid(REAL)
    expected = {
        "least_squares": (((REAL - 0.9) ** 2).mean() + (FAKE**2).mean()) / 2,
    }.get(kind, (-0.9 * np.log(p) - 0.1 * np.log(1 - p)).mean() - np.log(1 - sigmoid(FAKE)).mean())
    assert float(LOSSES[kind].discriminator(real, fake, 0.1)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", sorted(set(LOSSES) - set(SMOOTHED)))
def test_other_losses_ignore_label_smoothing(kind: str) -> None:
    real, fake = jnp.float32(REAL), jnp.float32(FAKE)
    plain, smoothed = (LOSSES[kind].discriminator(real, fake, s) for s in (0.0, 0.1))
    assert float(plain) == float(smoothed)


@pytest.mark.parametrize("kind", CROSS_ENTROPY)
@pytest.mark.parametrize(
    ("real", "fake", "d_loss", "saturating", "non_saturating"),
    [
        (1000.0, -1000.0, 0.0, 0.0, 1000.0),  # D is right
        (-1000.0, 1000.0, 2000.0, -1000.0, 0.0),  # D is wrong
    ],
)
def test_extreme_logits_give_exact_losses_and_finite_gradients(
    kind: str, real: float, fake: float, d_loss: float, saturating: float, non_saturating: float
) -> None:
    loss, reals, fakes = LOSSES[kind], jnp.full(3, real), jnp.full(3, fake)
    value, gradients = jax.value_and_grad(loss.discriminator, (0, 1))(reals, fakes, 0.0)
    assert float(value) == d_loss
    wrong = float(real < 0) / 3
    np.testing.assert_allclose(gradients, [[-wrong] * 3, [wrong] * 3], rtol=1e-6)
    g_value, g_gradient = jax.value_and_grad(loss.generator)(fakes, reals)
    assert float(g_value) == (saturating if kind == "minimax" else non_saturating)
    assert np.isfinite(g_gradient).all()


@pytest.mark.parametrize(
    ("kind", "slope"),
    [
        # The minimax gradient, -sigmoid(x), vanishes when D is certain.
        ("minimax", lambda x: -1 / (1 + math.exp(-x))),
        ("non_saturating", lambda x: -1 / (1 + math.exp(x))),
    ],
)
@pytest.mark.parametrize("logit", [-30.0, -5.0, 0.0, 5.0, 30.0])
def test_the_generators_gradient_matches_its_closed_form(
    kind: str, slope: Callable[[float], float], logit: float
) -> None:
    found = jax.grad(LOSSES[kind].generator)(jnp.full(1, logit), jnp.zeros(1))
    np.testing.assert_allclose(found, slope(logit), rtol=1e-5)


def test_a_certain_discriminator_stops_only_the_minimax_generator() -> None:
    certain = jnp.full(8, -30.0)
    assert np.abs(jax.grad(LOSSES["minimax"].generator)(certain, certain)).sum() < 1e-12
    assert np.abs(jax.grad(LOSSES["non_saturating"].generator)(certain, certain)).sum() > 0.999
