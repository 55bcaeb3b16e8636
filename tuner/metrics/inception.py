"""The Inception network that the FID is defined by, its pool3 features, and its weights' names.

It is the ImageNet classifier of December 2015 (Szegedy et al. 2016, "Rethinking the Inception
Architecture"), with the names that torchvision gives its layers. What it does otherwise than
torchvision: average pooling leaves padding out of the count, and the last block pools by maximum.
Images are NHWC throughout.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax
from numpy.typing import NDArray

from tuner.errors import InputError
from tuner.metrics.resizing import prepare

FEATURES = 2048
CHUNK = 32  # images a call: activations of about half a gigabyte
BATCH_NORM_EPSILON = 1e-3

Shape = tuple[int, ...]
Weights = dict[str, Array]
Block = Callable[[Array], Array]


class Kernel(nnx.Module):
    """A convolution's kernel, HWIO; zeros, to be replaced by weights from a file."""

    def __init__(self, shape: Shape) -> None:
        self.weight = nnx.Param(jnp.zeros(shape))


class BatchNorm(nnx.Module):
    """Batch normalisation by recorded statistics."""

    def __init__(self, channels: int) -> None:
        self.weight = nnx.Param(jnp.zeros(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.running_mean = nnx.BatchStat(jnp.zeros(channels))
        self.running_var = nnx.BatchStat(jnp.zeros(channels))

    def __call__(self, x: Array) -> Array:
        scale = self.weight[...] / jnp.sqrt(self.running_var[...] + BATCH_NORM_EPSILON)
        return x * scale + (self.bias[...] - self.running_mean[...] * scale)


class Conv(nnx.Module):
    """Convolution without bias, batch norm, ReLU; ``size`` is (height, width) of the kernel."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: tuple[int, int] = (1, 1),
        *,
        stride: int = 1,
        padding: str = "SAME",
    ) -> None:
        self.conv = Kernel((*size, inputs, outputs))
        self.bn = BatchNorm(outputs)
        self.stride, self.padding = stride, padding

    def __call__(self, x: Array) -> Array:
        y = lax.conv_general_dilated(
            x,
            self.conv.weight[...],
            (self.stride, self.stride),
            self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=lax.Precision.HIGHEST,
        )
        return jax.nn.relu(self.bn(y))


def shrink(inputs: int, outputs: int) -> Conv:
    """A 3x3 convolution that halves the image."""
    return Conv(inputs, outputs, (3, 3), stride=2, padding="VALID")


def halve(x: Array) -> Array:
    """The maximum over 3x3 at every second pixel, without padding."""
    return _pool(x, -jnp.inf, lax.max, 2, "VALID")


def maximum(x: Array) -> Array:
    """The maximum over the 3x3 pixels around each."""
    return _pool(x, -jnp.inf, lax.max, 1, "SAME")


def average(x: Array) -> Array:
    """The mean over those of the 3x3 pixels around each that lie in the image."""
    there = jnp.ones((1, *x.shape[1:3], 1))
    return _pool(x, 0.0, lax.add, 1, "SAME") / _pool(there, 0.0, lax.add, 1, "SAME")


def _pool(x: Array, start: float, combine: Callable[..., Any], stride: int, padding: str) -> Array:
    size, strides = (1, 3, 3, 1), (1, stride, stride, 1)
    pooled: Array = lax.reduce_window(x, start, combine, size, strides, padding)
    return pooled


class InceptionA(nnx.Module):
    """(n, 35, 35, inputs) -> (n, 35, 35, 224 + pooled)."""

    def __init__(self, inputs: int, pooled: int) -> None:
        self.branch1x1 = Conv(inputs, 64)
        self.branch5x5_1 = Conv(inputs, 48)
        self.branch5x5_2 = Conv(48, 64, (5, 5))
        self.branch3x3dbl_1 = Conv(inputs, 64)
        self.branch3x3dbl_2 = Conv(64, 96, (3, 3))
        self.branch3x3dbl_3 = Conv(96, 96, (3, 3))
        self.branch_pool = Conv(inputs, pooled)

    def __call__(self, x: Array) -> Array:
        once = self.branch5x5_2(self.branch5x5_1(x))
        twice = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        pool = self.branch_pool(average(x))
        return jnp.concatenate([self.branch1x1(x), once, twice, pool], axis=-1)


class InceptionB(nnx.Module):
    """(n, 35, 35, inputs) -> (n, 17, 17, inputs + 480)."""

    def __init__(self, inputs: int) -> None:
        self.branch3x3 = shrink(inputs, 384)
        self.branch3x3dbl_1 = Conv(inputs, 64)
        self.branch3x3dbl_2 = Conv(64, 96, (3, 3))
        self.branch3x3dbl_3 = shrink(96, 96)

    def __call__(self, x: Array) -> Array:
        twice = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return jnp.concatenate([self.branch3x3(x), twice, halve(x)], axis=-1)


class InceptionC(nnx.Module):
    """(n, 17, 17, 768) -> (n, 17, 17, 768), by rows and columns of 7, ``width`` channels wide."""

    def __init__(self, width: int) -> None:
        row, column = (1, 7), (7, 1)
        self.branch1x1 = Conv(768, 192)
        self.branch7x7_1 = Conv(768, width)
        self.branch7x7_2 = Conv(width, width, row)
        self.branch7x7_3 = Conv(width, 192, column)
        self.branch7x7dbl_1 = Conv(768, width)
        self.branch7x7dbl_2 = Conv(width, width, column)
        self.branch7x7dbl_3 = Conv(width, width, row)
        self.branch7x7dbl_4 = Conv(width, width, column)
        self.branch7x7dbl_5 = Conv(width, 192, row)
        self.branch_pool = Conv(768, 192)

    def __call__(self, x: Array) -> Array:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        pool = self.branch_pool(average(x))
        return jnp.concatenate([self.branch1x1(x), once, twice, pool], axis=-1)


class InceptionD(nnx.Module):
    """(n, 17, 17, 768) -> (n, 8, 8, 1280)."""

    def __init__(self) -> None:
        self.branch3x3_1 = Conv(768, 192)
        self.branch3x3_2 = shrink(192, 320)
        self.branch7x7x3_1 = Conv(768, 192)
        self.branch7x7x3_2 = Conv(192, 192, (1, 7))
        self.branch7x7x3_3 = Conv(192, 192, (7, 1))
        self.branch7x7x3_4 = shrink(192, 192)

    def __call__(self, x: Array) -> Array:
        near = self.branch3x3_2(self.branch3x3_1(x))
        wide = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return jnp.concatenate([near, self.branch7x7x3_4(wide), halve(x)], axis=-1)


class InceptionE(nnx.Module):
    """(n, 8, 8, inputs) -> (n, 8, 8, 2048); ``pool`` is ``average`` or ``maximum``."""

    def __init__(self, inputs: int, pool: Block) -> None:
        self.branch1x1 = Conv(inputs, 320)
        self.branch3x3_1 = Conv(inputs, 384)
        self.branch3x3_2a = Conv(384, 384, (1, 3))
        self.branch3x3_2b = Conv(384, 384, (3, 1))
        self.branch3x3dbl_1 = Conv(inputs, 448)
        self.branch3x3dbl_2 = Conv(448, 384, (3, 3))
        self.branch3x3dbl_3a = Conv(384, 384, (1, 3))
        self.branch3x3dbl_3b = Conv(384, 384, (3, 1))
        self.branch_pool = Conv(inputs, 192)
        self.pool = pool

    def __call__(self, x: Array) -> Array:
        once = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        parts = [
            self.branch1x1(x),
            self.branch3x3_2a(once),
            self.branch3x3_2b(once),
            self.branch3x3dbl_3a(twice),
            self.branch3x3dbl_3b(twice),
            self.branch_pool(self.pool(x)),
        ]
        return jnp.concatenate(parts, axis=-1)


# In the order in which images pass them; the classifier after them is of no use here.
BLOCKS: dict[str, Callable[[], Block]] = {
    "Conv2d_1a_3x3": lambda: shrink(3, 32),
    "Conv2d_2a_3x3": lambda: Conv(32, 32, (3, 3), padding="VALID"),
    "Conv2d_2b_3x3": lambda: Conv(32, 64, (3, 3)),
    "Conv2d_3b_1x1": lambda: Conv(64, 80),
    "Conv2d_4a_3x3": lambda: Conv(80, 192, (3, 3), padding="VALID"),
    "Mixed_5b": lambda: InceptionA(192, 32),
    "Mixed_5c": lambda: InceptionA(256, 64),
    "Mixed_5d": lambda: InceptionA(288, 64),
    "Mixed_6a": lambda: InceptionB(288),
    "Mixed_6b": lambda: InceptionC(128),
    "Mixed_6c": lambda: InceptionC(160),
    "Mixed_6d": lambda: InceptionC(160),
    "Mixed_6e": lambda: InceptionC(192),
    "Mixed_7a": InceptionD,
    "Mixed_7b": lambda: InceptionE(1280, average),
    "Mixed_7c": lambda: InceptionE(2048, maximum),
}
HALVED_AFTER = ("Conv2d_2b_3x3", "Conv2d_4a_3x3")


def inception_features(weights: Weights, images: Array, convention: str) -> Array:
    """Features (n, 2048) of uint8 ``images`` (n, h, w, c): the means over the last block's pixels.

    To be called from a compiled function, with at most ``CHUNK`` images.
    """
    return block_outputs(weights, prepare(images, convention))["Mixed_7c"].mean((1, 2))


def block_outputs(weights: Weights, x: Array) -> dict[str, Array]:
    """What each block makes (n, h, w, channels) of inputs (n, 299, 299, 3) in [-1, 1]; of the two
    convolutions that a maximum over 3x3 follows, what that makes of it."""
    graph, blank = _abstract_network()
    variables: Any = {path: leaf.replace(weights[".".join(path)]) for path, leaf in blank.items()}
    network = nnx.merge(graph, nnx.from_flat_state(variables))
    outputs = {}
    for name in BLOCKS:
        x = network[name](x)
        if name in HALVED_AFTER:
            x = halve(x)
        outputs[name] = x
    return outputs


def weight_shapes() -> dict[str, Shape]:
    """The shapes of the 470 arrays, kernels HWIO, by PyTorch's names: 21,785,568 learned numbers
    and 34,432 recorded ones."""
    variables = _abstract_network()[1]
    return {".".join(path): leaf.shape for path, leaf in variables.items()}


@functools.cache
def _abstract_network() -> tuple[nnx.GraphDef[Any], dict[Any, Any]]:
    network = nnx.eval_shape(lambda: nnx.Dict({name: make() for name, make in BLOCKS.items()}))
    graph, state = nnx.split(network)
    variables: Any = nnx.to_flat_state(state)
    return graph, dict(variables)


def from_torch(
    state: Mapping[str, NDArray[Any]], origin: str = "weights"
) -> dict[str, NDArray[np.float32]]:
    """The weights in PyTorch's published file as the functions here take them: without the
    classifier, kernels HWIO. InputError, which names the ``origin``, for those of another network.
    """
    unused = ("fc.weight", "fc.bias")
    arrays = {
        name: array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
        for name, array in state.items()
        if name not in unused and not name.endswith(".num_batches_tracked")
    }
    check_weights(arrays, origin)
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def check_weights(arrays: Mapping[str, NDArray[Any]], origin: str) -> None:
    """InputError for the first array (kernels HWIO) that is missing, is no float32 of the shape
    expected, or is not expected at all."""
    expected = weight_shapes()
    for name in (*expected, *sorted(arrays.keys() - expected.keys())):
        array = arrays.get(name)
        found = "no array" if array is None else f"{array.dtype} {array.shape}"
        wanted = f"float32 {expected[name]}" if name in expected else "no such array"
        if found != wanted:
            raise InputError(f"{origin}: found {found} as {name!r}, expected {wanted}")
