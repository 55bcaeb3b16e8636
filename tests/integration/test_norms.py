"""Normalisation layers against NumPy: statistics, singular values and gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tuner.gan.layers import Conv, Dense, projection_logits
from tuner.gan.norms import (
    BATCH_NORM_EPSILON,
    LAYER_NORM_EPSILON,
    BatchNorm,
    ConditionalBatchNorm,
    LayerNorm,
    SpectralNorm,
    generator_norm,
)
from tuner.trial import Program

SHAPE = (6, 3, 4, 5)
PROGRAM = Program("dcgan", "dcgan", 1, 4, (32, 32, 1), 4, "minimax", "adam", "adam", 1, False)


def gaussian(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(1.0, 2.0, shape).astype(np.float32)


def with_affine(norm: Any) -> Any:
    """Set a gain other than 1 and a bias other than 0."""
    norm.scale.set_value(jnp.asarray(gaussian(*norm.scale[...].shape, seed=1)))
    norm.bias.set_value(jnp.asarray(gaussian(*norm.bias[...].shape, seed=2)))
    return norm


def test_layer_norm_matches_numpy() -> None:
    norm, x = with_affine(LayerNorm(5)), gaussian(*SHAPE)
    x[1] *= 10  # each image is normalised separately
    mean, variance = (f((1, 2, 3), keepdims=True) for f in (x.mean, x.var))
    expected = (x - mean) / np.sqrt(variance + LAYER_NORM_EPSILON)
    expected = expected * norm.scale[...] + norm.bias[...]
    np.testing.assert_allclose(norm(jnp.asarray(x), train=True), expected, rtol=1e-4, atol=1e-5)


def test_conditional_batch_norm_matches_numpy() -> None:
    norm, x, other = (
        with_affine(ConditionalBatchNorm(5, 3)),
        gaussian(*SHAPE),
        gaussian(*SHAPE, seed=3),
    )
    labels = np.array([0, 2, 2, 1, 0, 1])
    gain, bias = (
        np.asarray(table[...])[labels][:, None, None] for table in (norm.scale, norm.bias)
    )

    def expected(y: np.ndarray) -> np.ndarray:  # normalised with the statistics of x
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        scaled: np.ndarray = (y - mean) / np.sqrt(variance + BATCH_NORM_EPSILON) * gain + bias
        return scaled

    trained = norm(jnp.asarray(x), jnp.asarray(labels), train=True)
    np.testing.assert_allclose(trained, expected(x), rtol=1e-4, atol=1e-5)
    recorded = norm(jnp.asarray(other), jnp.asarray(labels), train=False)
    np.testing.assert_allclose(recorded, expected(other), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="no labels"):
        norm(jnp.asarray(x), train=True)


def test_classes_reach_a_generator_through_batch_norm() -> None:
    assert isinstance(generator_norm(PROGRAM._replace(classes=3), 4), ConditionalBatchNorm)
    with pytest.raises(ValueError, match="without batch norm cannot be conditioned on classes"):
        generator_norm(PROGRAM._replace(classes=3, generator_norm="none"), 4)


@pytest.mark.parametrize("kind", [BatchNorm, LayerNorm])
def test_statistics_of_bfloat16_are_float32(kind: Any) -> None:
    """bfloat16 resolves 0.5 around 100: sums in bfloat16 would lose the variance."""
    x = jnp.asarray(100 + gaussian(64, 8, 8, 2), jnp.bfloat16)
    norm = kind(2)
    y = norm(x, train=True)
    assert y.dtype == jnp.bfloat16
    exact = np.asarray(x, np.float64)
    axes = (0, 1, 2) if kind is BatchNorm else (1, 2, 3)
    normed = (exact - exact.mean(axes, keepdims=True)) / exact.std(axes, keepdims=True)
    np.testing.assert_allclose(np.asarray(y, np.float64), normed, rtol=0.01, atol=0.01)
    if kind is BatchNorm:
        assert norm.mean[...].dtype == jnp.float32
        np.testing.assert_allclose(norm.variance[...], exact.var(axes), rtol=1e-4)
        assert norm(x, train=False).dtype == jnp.bfloat16


def spectral(kernel: np.ndarray) -> tuple[Any, Any]:
    norm: Any = SpectralNorm(kernel.shape[-1], rngs=nnx.Rngs(0))
    return norm, jnp.asarray(kernel)


def test_spectral_norm_finds_the_largest_singular_value() -> None:
    layer: Any = Conv(4, 7, size=3, spectral=True, rngs=nnx.Rngs(0))
    kernel = np.asarray(layer.kernel[...])
    for _ in range(200):
        normed = layer.norm(layer.kernel[...], train=True)
    largest = np.linalg.svd(kernel.reshape(36, 7), compute_uv=False)[0]
    np.testing.assert_allclose(normed, kernel / largest, rtol=1e-5, atol=1e-7)
    u = np.asarray(layer.norm.u[...])
    np.testing.assert_allclose(layer.norm(layer.kernel[...], train=False), normed, rtol=1e-5)
    np.testing.assert_array_equal(layer.norm.u[...], u)
    assert isinstance(layer.norm.u, nnx.BatchStat)
    assert layer.norm(jnp.bfloat16(kernel), train=True).dtype == jnp.bfloat16
    assert layer.norm.u[...].dtype == jnp.float32


def test_spectral_norm_gradient_treats_u_and_v_as_constants() -> None:
    """One iteration from u gives v = Wu / |Wu|, u' = W'v / |W'v| and sigma = v'Wu'. The gradient of
    <C, W / sigma> is C / sigma - <C, W> / sigma^2 vu' (Miyato et al. 2018, eq. 12)."""
    matrix, c = gaussian(6, 4), gaussian(6, 4, seed=1)
    norm, kernel = spectral(matrix.reshape(2, 3, 4))
    v = matrix @ np.asarray(norm.u[...])
    v /= np.linalg.norm(v)
    u = matrix.T @ v
    u /= np.linalg.norm(u)
    sigma = v @ matrix @ u

    def inner(kernel: jax.Array) -> jax.Array:
        return jnp.sum(c.reshape(2, 3, 4) * norm(kernel, train=False))

    np.testing.assert_allclose(norm(kernel, train=True), kernel / sigma, rtol=1e-5)
    np.testing.assert_allclose(norm.u[...], u, rtol=1e-5)
    v = matrix @ u
    v /= np.linalg.norm(v)
    sigma = v @ matrix @ u
    expected = c / sigma - (c * matrix).sum() / sigma**2 * np.outer(v, u)
    np.testing.assert_allclose(jax.grad(inner)(kernel).reshape(6, 4), expected, rtol=1e-4)


@pytest.mark.parametrize("classes", [0, 3])
def test_projection_matches_numpy(classes: int) -> None:
    """Linear map plus inner product with the class embedding (Miyato and Koyama 2018, eq. 6)."""
    dense: Any = Dense(4, 1, rngs=nnx.Rngs(0))
    embedding: Any = Dense(3, 4, use_bias=False, rngs=nnx.Rngs(1)) if classes else None
    features, labels = gaussian(5, 4), np.array([2, 0, 1, 1, 2])
    expected = features @ dense.kernel[...][:, 0]
    if classes:
        expected += (features * np.asarray(embedding.kernel[...])[labels]).sum(1)
    found = projection_logits(
        jnp.asarray(features), dense, embedding, jnp.asarray(labels), train=True
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
