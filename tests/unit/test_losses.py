"""The adversarial losses at logits whose losses are known by hand."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tuner import spec
from tuner.gan.losses import LOSSES

Loss = Callable[[np.ndarray, np.ndarray], float]

LN2, LN3 = math.log(2), math.log(3)


CROSS_ENTROPY = ("minimax", "non_saturating", "dragan", "gradient_normalized")
REAL, FAKE = np.array([0.0, LN3, -0.5]), np.array([LN3, 0.0, 2.0])


def sigmoid(x: np.ndarray) -> np.ndarray:
    found: np.ndarray = 1 / (1 + np.exp(-x))
    return found


# What the papers write, with D a probability where it is one there: D's loss, then G's.
WRITTEN: dict[str, tuple[Loss, Loss]] = {
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
WRITTEN["wasserstein_gp"] = WRITTEN["wasserstein"]
WRITTEN["dragan"] = WRITTEN["gradient_normalized"] = WRITTEN["non_saturating"]


def slopes(loss: Loss, real: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """Central differences of ``loss`` in each logit: real ones, then fake ones."""
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


def test_every_loss_that_a_study_can_name_is_there() -> None:
    assert tuple(LOSSES) == spec.LOSSES
    assert set(WRITTEN) == set(LOSSES)


@pytest.mark.parametrize("kind", LOSSES)
def test_values_and_gradients_are_as_written_in_the_papers(kind: str) -> None:
    real, fake = jnp.float32(REAL), jnp.float32(FAKE)
    d_written, g_written = WRITTEN[kind]
    value, gradient = jax.value_and_grad(LOSSES[kind].discriminator, (0, 1))(real, fake, 0.0)
    assert float(value) == pytest.approx(d_written(REAL, FAKE), rel=1e-6)
    np.testing.assert_allclose(
        np.concatenate(gradient), slopes(d_written, REAL, FAKE), rtol=1e-4, atol=1e-6
    )
    value, gradient = jax.value_and_grad(LOSSES[kind].generator, (1, 0))(fake, real)
    assert float(value) == pytest.approx(g_written(REAL, FAKE), rel=1e-6)
    np.testing.assert_allclose(
        np.concatenate(gradient), slopes(g_written, REAL, FAKE), rtol=1e-4, atol=1e-6
    )
    assert LOSSES[kind].relative == (kind == "relativistic")


@pytest.mark.parametrize("kind", CROSS_ENTROPY)
def test_standing_is_measured_by_the_loss_that_does_not_saturate(kind: str) -> None:
    fake = jnp.array([LN3, 0.0])
    measured = -(math.log(3 / 4) + math.log(1 / 2)) / 2
    assert float(LOSSES[kind].generator_measure(fake, fake)) == pytest.approx(measured, rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "undecided", "d_loss", "g_measure"),
    [
        *((kind, 0.0, 2 * LN2, LN2) for kind in CROSS_ENTROPY),
        ("least_squares", 0.5, 1 / 4, 1 / 8),  # a target of 1 or 0, either as likely
        ("relativistic", 3.0, LN2, LN2),  # whatever both are given
    ],
)
def test_a_discriminator_that_can_not_tell(
    kind: str, undecided: float, d_loss: float, g_measure: float
) -> None:
    """At equilibrium real and fake logits have one distribution, and D's best answer is known."""
    loss, logits = LOSSES[kind], jnp.full(4, undecided)
    assert loss.indifference == pytest.approx((d_loss, g_measure), rel=1e-12)
    value, (real, fake) = jax.value_and_grad(loss.discriminator, (0, 1))(logits, logits, 0.0)
    assert float(value) == pytest.approx(d_loss, rel=1e-6)
    np.testing.assert_allclose(real + fake, 0, atol=1e-7)  # the best answer: nothing pulls on it
    assert float(loss.generator_measure(logits, logits)) == pytest.approx(g_measure, rel=1e-6)


@pytest.mark.parametrize("kind", ["hinge", "wasserstein", "wasserstein_gp"])
def test_losses_without_a_scale_of_their_own(kind: str) -> None:
    assert LOSSES[kind].indifference is None


@pytest.mark.parametrize("kind", spec.SMOOTHED)
def test_smoothed_labels(kind: str) -> None:
    """A target of 0.9: the cross-entropy to it, or the square of what is missing."""
    real, fake = jnp.float32(REAL), jnp.float32(FAKE)
    p = sigmoid(REAL)
    missing = {
        "least_squares": (((REAL - 0.9) ** 2).mean() + (FAKE**2).mean()) / 2,
    }.get(kind, (-0.9 * np.log(p) - 0.1 * np.log(1 - p)).mean() - np.log(1 - sigmoid(FAKE)).mean())
    assert float(LOSSES[kind].discriminator(real, fake, 0.1)) == pytest.approx(missing, rel=1e-6)


@pytest.mark.parametrize("kind", sorted(set(LOSSES) - set(spec.SMOOTHED)))
def test_losses_without_labels_to_smooth(kind: str) -> None:
    real, fake = jnp.float32(REAL), jnp.float32(FAKE)
    plain, smoothed = (LOSSES[kind].discriminator(real, fake, s) for s in (0.0, 0.1))
    assert float(plain) == float(smoothed)


@pytest.mark.parametrize("kind", CROSS_ENTROPY)
@pytest.mark.parametrize(
    ("real", "fake", "d_loss", "saturating", "non_saturating"),
    [
        (1000.0, -1000.0, 0.0, 0.0, 1000.0),  # D knows
        (-1000.0, 1000.0, 2000.0, -1000.0, 0.0),  # D is wrong
    ],
)
def test_extreme_logits(
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
        # With s the sigmoid: -s(x) fades where D is sure, -s(-x) does not.
        ("minimax", lambda x: -1 / (1 + math.exp(-x))),
        ("non_saturating", lambda x: -1 / (1 + math.exp(x))),
    ],
)
@pytest.mark.parametrize("logit", [-30.0, -5.0, 0.0, 5.0, 30.0])
def test_gradient_for_the_generator(
    kind: str, slope: Callable[[float], float], logit: float
) -> None:
    found = jax.grad(LOSSES[kind].generator)(jnp.full(1, logit), jnp.zeros(1))
    np.testing.assert_allclose(found, slope(logit), rtol=1e-5)


def test_a_sure_discriminator_starves_only_the_minimax_generator() -> None:
    sure = jnp.full(8, -30.0)
    assert np.abs(jax.grad(LOSSES["minimax"].generator)(sure, sure)).sum() < 1e-12
    assert np.abs(jax.grad(LOSSES["non_saturating"].generator)(sure, sure)).sum() > 0.999
