"""The Inception network that defines FID: its pool3 features, and the names of its weights.

This is the ImageNet classifier of December 2015 (Szegedy et al. 2016, "Rethinking the Inception
Architecture"), with torchvision's names for layers. It differs from torchvision in two ways:
average pooling excludes padding from the count, and the last block uses max pooling. Images are
NHWC.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import NDArray

from tuner.errors import InputError
from tuner.metrics.resizing import prepare

FEATURES = 2048
CHUNK = 32  # images per call, with about 500 MB of activations
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
BATCH_NORM_EPSILON = 1e-3

Shape = tuple[int, ...]
Weights = dict[str, Array]


@dataclass(frozen=True)
class Conv:
    """Convolution without bias, batch norm, ReLU; ``size`` is (height, width) of the kernel."""

    name: str  # within its block; empty if it is the block's only convolution
    inputs: int
    outputs: int
    size: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"

    def path(self, block: str) -> str:
        """The prefix of its weights' names."""
        return f"{block}.{self.name}" if self.name else block


# The parts in a list are applied in order, those in a tuple side by side.
Part = Conv | Callable[[Array], Array] | list["Part"] | tuple["Part", ...]


def shrink(name: str, inputs: int, outputs: int) -> Conv:
    """A 3x3 convolution that halves the image."""
    return Conv(name, inputs, outputs, (3, 3), stride=2, padding="VALID")


def halve(x: Array) -> Array:
    """The maximum over 3x3 pixels at stride 2, without padding."""
    return _pool(x, -jnp.inf, lax.max, 2, "VALID")


def maximum(x: Array) -> Array:
    """The maximum over the 3x3 pixels around each."""
    return _pool(x, -jnp.inf, lax.max, 1, "SAME")


def average(x: Array) -> Array:
    """The mean over the 3x3 pixels around each, ignoring those outside the image."""
    inside = jnp.ones((1, *x.shape[1:3], 1))
    return _pool(x, 0.0, lax.add, 1, "SAME") / _pool(inside, 0.0, lax.add, 1, "SAME")


def _pool(x: Array, start: float, combine: Callable[..., Any], stride: int, padding: str) -> Array:
    size, strides = (1, 3, 3, 1), (1, stride, stride, 1)
    pooled: Array = lax.reduce_window(x, start, combine, size, strides, padding)
    return pooled


def inception_a(inputs: int, pooled: int) -> Part:
    """(n, 35, 35, inputs) -> (n, 35, 35, 224 + pooled)."""
    return (
        Conv("branch1x1", inputs, 64),
        [Conv("branch5x5_1", inputs, 48), Conv("branch5x5_2", 48, 64, (5, 5))],
        [
            Conv("branch3x3dbl_1", inputs, 64),
            Conv("branch3x3dbl_2", 64, 96, (3, 3)),
            Conv("branch3x3dbl_3", 96, 96, (3, 3)),
        ],
        [average, Conv("branch_pool", inputs, pooled)],
    )


def inception_b(inputs: int) -> Part:
    """(n, 35, 35, inputs) -> (n, 17, 17, inputs + 480)."""
    return (
        shrink("branch3x3", inputs, 384),
        [
            Conv("branch3x3dbl_1", inputs, 64),
            Conv("branch3x3dbl_2", 64, 96, (3, 3)),
            shrink("branch3x3dbl_3", 96, 96),
        ],
        halve,
    )


def inception_c(width: int) -> Part:
    """(n, 17, 17, 768) -> (n, 17, 17, 768), by 1x7 and 7x1 kernels on ``width`` channels."""
    row, column = (1, 7), (7, 1)
    return (
        Conv("branch1x1", 768, 192),
        [
            Conv("branch7x7_1", 768, width),
            Conv("branch7x7_2", width, width, row),
            Conv("branch7x7_3", width, 192, column),
        ],
        [
            Conv("branch7x7dbl_1", 768, width),
            Conv("branch7x7dbl_2", width, width, column),
            Conv("branch7x7dbl_3", width, width, row),
            Conv("branch7x7dbl_4", width, width, column),
            Conv("branch7x7dbl_5", width, 192, row),
        ],
        [average, Conv("branch_pool", 768, 192)],
    )


def inception_d() -> Part:
    """(n, 17, 17, 768) -> (n, 8, 8, 1280)."""
    return (
        [Conv("branch3x3_1", 768, 192), shrink("branch3x3_2", 192, 320)],
        [
            Conv("branch7x7x3_1", 768, 192),
            Conv("branch7x7x3_2", 192, 192, (1, 7)),
            Conv("branch7x7x3_3", 192, 192, (7, 1)),
            shrink("branch7x7x3_4", 192, 192),
        ],
        halve,
    )


def inception_e(inputs: int, pool: Callable[[Array], Array]) -> Part:
    """(n, 8, 8, inputs) -> (n, 8, 8, 2048); ``pool`` is ``average`` or ``maximum``."""
    return (
        Conv("branch1x1", inputs, 320),
        [
            Conv("branch3x3_1", inputs, 384),
            (Conv("branch3x3_2a", 384, 384, (1, 3)), Conv("branch3x3_2b", 384, 384, (3, 1))),
        ],
        [
            Conv("branch3x3dbl_1", inputs, 448),
            Conv("branch3x3dbl_2", 448, 384, (3, 3)),
            (
                Conv("branch3x3dbl_3a", 384, 384, (1, 3)),
                Conv("branch3x3dbl_3b", 384, 384, (3, 1)),
            ),
        ],
        [pool, Conv("branch_pool", inputs, 192)],
    )


# In forward order; the final classifier is left out.
BLOCKS: dict[str, Part] = {
    "Conv2d_1a_3x3": shrink("", 3, 32),
    "Conv2d_2a_3x3": Conv("", 32, 32, (3, 3), padding="VALID"),
    "Conv2d_2b_3x3": [Conv("", 32, 64, (3, 3)), halve],
    "Conv2d_3b_1x1": Conv("", 64, 80),
    "Conv2d_4a_3x3": [Conv("", 80, 192, (3, 3), padding="VALID"), halve],
    "Mixed_5b": inception_a(192, 32),
    "Mixed_5c": inception_a(256, 64),
    "Mixed_5d": inception_a(288, 64),
    "Mixed_6a": inception_b(288),
    "Mixed_6b": inception_c(128),
    "Mixed_6c": inception_c(160),
    "Mixed_6d": inception_c(160),
    "Mixed_6e": inception_c(192),
    "Mixed_7a": inception_d(),
    "Mixed_7b": inception_e(1280, average),
    "Mixed_7c": inception_e(2048, maximum),
}


def inception_features(weights: Weights, images: Array, convention: str) -> Array:
    """Features (n, 2048) of uint8 ``images`` (n, h, w, c): global averages of the last block.

    Call it from a compiled function, with at most ``CHUNK`` images.
    """
    return block_outputs(weights, prepare(images, convention))["Mixed_7c"].mean((1, 2))


def block_outputs(weights: Weights, x: Array) -> dict[str, Array]:
    """Outputs (n, h, w, channels) of all blocks for inputs (n, 299, 299, 3) in [-1, 1]."""
    outputs = {}
    for name, block in BLOCKS.items():
        outputs[name] = x = _apply(block, weights, name, x)
    return outputs


def _apply(part: Part, weights: Weights, block: str, x: Array) -> Array:
    match part:
        case Conv():
            return _convolve(part, weights, block, x)
        case list():
            for step in part:
                x = _apply(step, weights, block, x)
            return x
        case tuple():
            results = [_apply(branch, weights, block, x) for branch in part]
            return jnp.concatenate(results, axis=-1)
        case _:
            return part(x)


def _convolve(conv: Conv, weights: Weights, block: str, x: Array) -> Array:
    path = conv.path(block)
    y = lax.conv_general_dilated(
        x,
        weights[f"{path}.conv.weight"],
        (conv.stride, conv.stride),
        conv.padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )
    weight, bias, mean, variance = (weights[f"{path}.bn.{name}"] for name in BATCH_NORM)
    scale = weight / jnp.sqrt(variance + BATCH_NORM_EPSILON)
    return jax.nn.relu(y * scale + (bias - mean * scale))


def weight_shapes() -> dict[str, Shape]:
    """Shapes of the 470 arrays by PyTorch's names, kernels HWIO.

    They hold 21,785,568 parameters and 34,432 running statistics.
    """
    shapes: dict[str, Shape] = {}
    for block, part in BLOCKS.items():
        for conv in _convolutions(part):
            path = conv.path(block)
            shapes[f"{path}.conv.weight"] = (*conv.size, conv.inputs, conv.outputs)
            shapes |= {f"{path}.bn.{name}": (conv.outputs,) for name in BATCH_NORM}
    return dict(sorted(shapes.items()))


def _convolutions(part: Part) -> Iterator[Conv]:
    match part:
        case Conv():
            yield part
        case list() | tuple():
            for inner in part:
                yield from _convolutions(inner)


def from_torch(
    state: Mapping[str, NDArray[Any]], origin: str = "weights"
) -> dict[str, NDArray[np.float32]]:
    """Convert the weights of PyTorch's published file: kernels to HWIO, without the classifier.

    Raises InputError, which names the ``origin``, for weights of another network.
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
    """Check names, dtypes and shapes (kernels HWIO) of all arrays.

    Raises InputError for the first array that is missing, unexpected or not float32 of its shape.
    """
    expected = weight_shapes()
    for name in (*expected, *sorted(arrays.keys() - expected.keys())):
        array = arrays.get(name)
        found = "no array" if array is None else f"{array.dtype} {array.shape}"
        wanted = f"float32 {expected[name]}" if name in expected else "no such array"
        if found != wanted:
            raise InputError(f"{origin}: {name!r}: found {found}, expected {wanted}")
