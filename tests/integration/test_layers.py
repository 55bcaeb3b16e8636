"""Layers against plain formulations: transposed convolutions, batch norm, dropout masks."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array, lax

from tuner.gan.layers import Conv, ConvTranspose, Dense, dropout, leaky_relu
from tuner.gan.norms import BATCH_NORM_EPSILON, BatchNorm, _batch_norm

NHWC = ("NHWC", "HWIO", "NHWC")


def literal_transpose(x: Array, kernel: Array, stride: int) -> Array:
    """out[o] = sum of x[i] kernel[t] over stride * i + t - before = o, as a dilated convolution.

    TensorFlow's SAME padding at size 5 is 1 before and 2 after at stride 2, 2 and 2 at stride 1.
    """
    before, after = (1, 2) if stride == 2 else (2, 2)
    padding = (4 - before, 4 - after)  # 4 and 4 would be the whole, uncut output
    return lax.conv_general_dilated(
        x,
        jnp.flip(kernel, (0, 1)).transpose(0, 1, 3, 2),
        (1, 1),
        (padding, padding),
        lhs_dilation=(stride, stride),
        dimension_numbers=NHWC,
        precision="highest",
    )


def with_gradients(function: Callable[..., Any], arguments: Any, dy: Any) -> list[Array]:
    """The function's values and its gradients for the cotangents ``dy``, compiled together."""

    def both(arguments: Any, dy: Any) -> list[Array]:
        values, pull = jax.vjp(function, *arguments)
        return [*jax.tree.leaves(values), *pull(dy)]

    return list(jax.jit(both)(arguments, dy))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("height", "width", "inputs", "outputs"),
    [(8, 8, 3, 5), (4, 7, 7, 1), (1, 3, 1, 3)],
)
def test_transposed_convolution_is_a_dilated_convolution(
    stride: int, height: int, width: int, inputs: int, outputs: int
) -> None:
    layer = ConvTranspose(inputs, outputs, stride=stride, rngs=nnx.Rngs(0))
    graph, params = nnx.split(layer)
    kernel = layer.kernel[...]
    assert kernel.shape == (5, 5, outputs, inputs)
    rng = np.random.default_rng(0)
    x = jnp.float32(rng.normal(size=(2, height, width, inputs)))
    dy = jnp.float32(rng.normal(size=(2, stride * height, stride * width, outputs)))

    def ours(x: Array, kernel: Array) -> Array:
        filled = jax.tree.map(lambda _: kernel, params)
        out: Array = nnx.merge(graph, filled)(x)
        return out

    def literal(x: Array, kernel: Array) -> Array:
        return literal_transpose(x, kernel, stride)

    for found, expected in zip(
        with_gradients(ours, (x, kernel), dy), with_gradients(literal, (x, kernel), dy), strict=True
    ):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("height", "inputs", "outputs"), [(6, 3, 5), (1, 4, 1)])
def test_transposed_convolution_of_size_4_matches_jax(
    height: int, inputs: int, outputs: int
) -> None:
    layer = ConvTranspose(inputs, outputs, size=4, stride=2, rngs=nnx.Rngs(0))
    graph, params = nnx.split(layer)
    rng = np.random.default_rng(0)
    x = jnp.float32(rng.normal(size=(2, height, 5, inputs)))
    dy = jnp.float32(rng.normal(size=(2, 2 * height, 10, outputs)))

    def ours(x: Array, kernel: Array) -> Array:
        out: Array = nnx.merge(graph, jax.tree.map(lambda _: kernel, params))(x)
        return out

    def jaxs(x: Array, kernel: Array) -> Array:
        return lax.conv_transpose(
            x, kernel, (2, 2), "SAME", dimension_numbers=NHWC, transpose_kernel=True
        )

    arguments = (x, layer.kernel[...])
    pairs = zip(
        with_gradients(ours, arguments, dy), with_gradients(jaxs, arguments, dy), strict=True
    )
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


def test_transposed_convolution_spreads_a_pixel_over_its_taps() -> None:
    layer = ConvTranspose(1, 1, stride=2, rngs=nnx.Rngs(0))
    taps = jnp.arange(1.0, 6)
    layer.kernel.set_value(jnp.outer(taps, taps)[:, :, None, None])
    rows = layer(jnp.zeros((1, 3, 3, 1)).at[0, 1, 0, 0].set(1.0))[0, :, :, 0]
    # Pixel 1 reaches rows 1..5 with taps 1..5; pixel 0 columns 0..3 with taps 2..5.
    np.testing.assert_array_equal(rows, np.outer([0, 1, 2, 3, 4, 5], [2, 3, 4, 5, 0, 0]))


def test_unsupported_sizes_and_strides_are_refused() -> None:
    with pytest.raises(ValueError, match="found 5 and 3"):
        ConvTranspose(1, 1, stride=3, rngs=nnx.Rngs(0))


def test_grouped_convolution_convolves_each_group() -> None:
    layer = Conv(4, 6, size=3, groups=2, use_bias=False, rngs=nnx.Rngs(0))
    x = jnp.float32(np.random.default_rng(0).normal(size=(2, 5, 5, 4)))
    for group in range(2):
        alone: Any = Conv(2, 3, size=3, use_bias=False, rngs=nnx.Rngs(1))
        alone.kernel.set_value(layer.kernel[...][..., 3 * group : 3 * group + 3])
        expected = alone(x[..., 2 * group : 2 * group + 2])
        found = layer(x)[..., 3 * group : 3 * group + 3]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    kernel = layer.kernel[...]
    slopes, expected = (
        jax.grad(lambda kernel, x, f=f: jnp.sum(f(x, kernel) ** 3), (0, 1))(kernel, x)
        for f in (layer._as_one_group, layer._convolve)
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), slopes, expected)


def test_convolution_pads_like_tensorflow() -> None:
    layer: Any = Conv(1, 1, size=5, stride=2, rngs=nnx.Rngs(0))
    layer.kernel.set_value(jnp.outer(jnp.arange(1.0, 6), jnp.ones(5))[:, :, None, None])
    layer.bias.set_value(jnp.array([0.5]))
    rows = layer(jnp.zeros((1, 6, 6, 1)).at[0, 2, 2, 0].set(1.0))[0, :, 1, 0]
    # Output row q sees rows 2q - 1 .. 2q + 3, so row 2 by taps 4, 2 and, for q = 2, none.
    np.testing.assert_array_equal(rows, [4.5, 2.5, 0.5])


def test_layers_without_bias_have_none() -> None:
    rngs = nnx.Rngs(0)
    layers = [
        Dense(3, 2, use_bias=False, rngs=rngs),
        Conv(3, 2, size=5, use_bias=False, rngs=rngs),
    ]
    for layer in layers:
        assert len(jax.tree.leaves(nnx.state(layer))) == 1
        x = jnp.zeros((1, 3)) if isinstance(layer, Dense) else jnp.zeros((1, 4, 4, 3))
        assert not np.any(layer(x))


def plain_batch_norm(x: Array, scale: Array, bias: Array) -> Array:
    axes = tuple(range(x.ndim - 1))
    mean = jnp.sum(x, axes) / (x.size // x.shape[-1])
    variance = jnp.sum((x - mean) ** 2, axes) / (x.size // x.shape[-1])
    return (x - mean) / jnp.sqrt(variance + BATCH_NORM_EPSILON) * scale + bias


@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 2, 5)])
def test_batch_norm_gradient_agrees_with_the_formula(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        x, dy = jnp.asarray(rng.normal(2.0, 3.0, shape)), jnp.asarray(rng.normal(size=shape))
        scale, bias = jnp.asarray(rng.normal(size=(2, shape[-1])))
        ones = jnp.ones(shape[-1])  # cotangents of the statistics: they carry no gradient
        y, mean, variance, *ours = with_gradients(_batch_norm, (x, scale, bias), (dy, ones, ones))
        plain = with_gradients(plain_batch_norm, (x, scale, bias), dy)
        assert y.dtype == np.float64
        axes = tuple(range(len(shape) - 1))
        np.testing.assert_allclose(mean, np.mean(x, axes), rtol=1e-13)
        np.testing.assert_allclose(variance, np.var(x, axes), rtol=1e-13)
        for found, expected in zip((y, *ours), plain, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_batch_norm_uses_the_statistics_recorded_last() -> None:
    layer: Any = BatchNorm(3)
    rng = np.random.default_rng(2)
    first, second, x = jnp.float32(rng.normal(1.0, 2.0, (3, 16, 3)))
    layer(first, train=True)
    layer(second, train=True)
    np.testing.assert_allclose(layer.mean[...], np.mean(second, 0), rtol=1e-5)
    np.testing.assert_allclose(layer.variance[...], np.var(second, 0), rtol=1e-5)
    expected = (x - np.mean(second, 0)) / np.sqrt(np.var(second, 0) + 1e-3)
    np.testing.assert_allclose(layer(x, train=False), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.mean[...], np.mean(second, 0), rtol=1e-5)


def test_leaky_relu_has_a_slope_of_0_3_below_zero() -> None:
    x = jnp.array([-2.0, -0.5, 0.0, 3.0])
    np.testing.assert_allclose(leaky_relu(x), [-0.6, -0.15, 0.0, 3.0], rtol=1e-6)
    slopes = jax.vmap(jax.grad(leaky_relu))(x[jnp.array([0, 1, 3])])
    np.testing.assert_allclose(slopes, [0.3, 0.3, 1.0], rtol=1e-6)


drop = jax.jit(dropout)
SHAPE = (64, 16, 16, 16)
SIZE = int(np.prod(SHAPE))


def mask(rate: float, key: Array) -> np.ndarray:
    """The flat mask of kept units, 0 or 1, for an input of ``SHAPE``."""
    return np.asarray(drop(jnp.ones(SHAPE), rate, key) > 0, np.float64).ravel()


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def test_dropout_at_rate_0_changes_nothing() -> None:
    x = jnp.float32(np.random.default_rng(0).normal(size=SHAPE))
    np.testing.assert_array_equal(drop(x, 0.0, jax.random.key(0)), x)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.3, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("seed", [0, 1])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(rate: float, seed: int) -> None:
    y = np.asarray(drop(jnp.ones(SHAPE), rate, jax.random.key(seed)), np.float64)
    deviation = np.sqrt(rate * (1 - rate) / SIZE)  # of a binomial's share
    assert abs((y == 0).mean() - rate) < 4 * deviation
    assert abs(y.mean() - 1) < 4 * deviation / (1 - rate)
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_dropout_drops_evenly_along_every_axis(axis: int) -> None:
    others = tuple(i for i in range(4) if i != axis)
    shares = mask(0.3, jax.random.key(2)).reshape(SHAPE).mean(others)
    assert np.abs(shares - 0.7).max() < 5 * np.sqrt(0.21 * SHAPE[axis] / SIZE)


def test_dropout_depends_on_the_key_alone() -> None:
    key = jax.random.key(3)
    np.testing.assert_array_equal(mask(0.5, key), mask(0.5, key))
    keys = [key, jax.random.key(4), *(jax.random.fold_in(key, i) for i in range(4))]
    masks = [mask(0.5, key) for key in keys]
    for i, a in enumerate(masks):
        for b in masks[:i]:
            assert abs(correlation(a, b)) < 5 / np.sqrt(SIZE)


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 15, 16, 17, 64, 255, 256, 1024, 4096, 65536])
def test_dropout_of_neighbours_is_uncorrelated(lag: int) -> None:
    for seed in range(4):
        kept = mask(0.3, jax.random.key(seed))
        assert abs(correlation(kept[lag:], kept[:-lag])) < 5 / np.sqrt(SIZE - lag)


def test_dropout_gradient_flows_through_kept_units() -> None:
    rng = np.random.default_rng(0)
    x, dy = jnp.float32(rng.normal(size=(2, 1000)))
    y, pull = jax.vjp(lambda x: drop(x, 0.4, jax.random.key(0)), x)
    kept = np.asarray(y) != 0
    assert 500 < kept.sum() < 700
    np.testing.assert_allclose(pull(dy)[0], np.where(kept, dy / 0.6, 0), rtol=1e-6)
