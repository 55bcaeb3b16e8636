"""The adversarial losses at logits whose losses are known by hand."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tuner.gan.losses import LOSSES

LN2, LN3 = math.log(2), math.log(3)


@pytest.mark.parametrize("kind", LOSSES)
def test_discriminators_loss(kind: str) -> None:
    real, fake = jnp.array([0.0, LN3]), jnp.array([LN3, 0.0, -LN3])
    # D(x) = 1/2, 3/4 for the real ones; 1 - D = 1/4, 1/2, 3/4 for the fake ones.
    expected = -(math.log(1 / 2) + math.log(3 / 4)) / 2
    expected -= (math.log(1 / 4) + math.log(1 / 2) + math.log(3 / 4)) / 3
    assert float(LOSSES[kind].discriminator(real, fake)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("minimax", (math.log(1 / 4) + math.log(1 / 2)) / 2),
        ("non_saturating", -(math.log(3 / 4) + math.log(1 / 2)) / 2),
    ],
)
def test_generators_loss(kind: str, expected: float) -> None:
    fake = jnp.array([LN3, 0.0])
    assert float(LOSSES[kind].generator(fake)) == pytest.approx(expected, rel=1e-6)
    measured = -(math.log(3 / 4) + math.log(1 / 2)) / 2  # non-saturating, whatever G minimises
    assert float(LOSSES[kind].generator_measure(fake)) == pytest.approx(measured, rel=1e-6)


@pytest.mark.parametrize("kind", LOSSES)
def test_an_undecided_discriminator(kind: str) -> None:
    loss, zeros = LOSSES[kind], jnp.zeros(4)
    assert loss.indifference == pytest.approx((2 * LN2, LN2), rel=1e-12)
    assert float(loss.discriminator(zeros, zeros)) == pytest.approx(2 * LN2, rel=1e-6)
    assert float(loss.generator_measure(zeros)) == pytest.approx(LN2, rel=1e-6)


@pytest.mark.parametrize("kind", LOSSES)
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
    value, gradients = jax.value_and_grad(loss.discriminator, (0, 1))(reals, fakes)
    assert float(value) == d_loss
    wrong = float(real < 0) / 3
    np.testing.assert_allclose(gradients, [[-wrong] * 3, [wrong] * 3], rtol=1e-6)
    g_value, g_gradient = jax.value_and_grad(loss.generator)(fakes)
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
    found = jax.grad(LOSSES[kind].generator)(jnp.full(1, logit))
    np.testing.assert_allclose(found, slope(logit), rtol=1e-5)


def test_a_sure_discriminator_starves_only_the_minimax_generator() -> None:
    sure = jnp.full(8, -30.0)
    assert np.abs(jax.grad(LOSSES["minimax"].generator)(sure)).sum() < 1e-12
    assert np.abs(jax.grad(LOSSES["non_saturating"].generator)(sure)).sum() > 0.999
