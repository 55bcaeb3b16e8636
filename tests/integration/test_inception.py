"""The Inception network against torch-fidelity's in float64, with the same random weights.

benchmarks/inception.py writes the golden arrays.
"""

from pathlib import Path
from typing import Any

import inception_weights as rule
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from tuner.errors import InputError
from tuner.metrics.inception import (
    BLOCKS,
    FEATURES,
    block_outputs,
    from_torch,
    inception_features,
    weight_shapes,
)
from tuner.metrics.resizing import prepare
from tuner.xla import jit

GOLDEN = Path(__file__).parents[1] / "golden" / "inception.npz"
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def golden() -> Arrays:
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@jit
def features_and_blocks(weights: dict[str, Array], images: Array) -> tuple[Array, dict[str, Array]]:
    """Features and block outputs, from one compiled program that computes each block once."""
    features = inception_features(weights, images, "torch-fidelity")
    return features, block_outputs(weights, prepare(images, "torch-fidelity"))


@pytest.fixture(scope="module")
def found(golden: Arrays) -> Arrays:
    """Features and blocks of tuner's network, named as the golden arrays."""
    shapes = weight_shapes()
    weights = rule.draw_weights(shapes) | rule.recorded_statistics(shapes, golden)
    features, blocks = features_and_blocks(jax.device_put(weights), jnp.asarray(rule.two_images()))
    arrays = {f"block/{name}": rule.sample_block(np.asarray(x)) for name, x in blocks.items()}
    return arrays | {"features": np.asarray(features)}


@pytest.mark.parametrize("name", [*(f"block/{block}" for block in BLOCKS), "features"])
def test_agrees_with_torch_fidelity(name: str, found: Arrays, golden: Arrays) -> None:
    expected = golden[name]
    assert found[name].shape == expected.shape
    error = np.linalg.norm(found[name] - expected) / np.linalg.norm(expected)
    assert error < 5e-5, f"relative error {error:.1e}"


def test_the_golden_features_differ_between_images(golden: Arrays) -> None:
    """If all images had nearly the same features, agreement would prove little."""
    features = golden["features"]
    assert features.shape == (2, FEATURES)
    assert 0.1 < features.mean() < 10
    assert np.linalg.norm(features[0] - features[1]) > 0.1 * np.linalg.norm(features[0])


def test_parameter_counts_agree_with_the_published_ones() -> None:
    """Against the parameter count of torchvision and the size of the published file.

    torchvision counts 27,161,264 parameters, among them 3,326,696 of a side branch and 2,049,000
    of the classifier with 1,000 classes. The published file, whose classifier has 1,008 classes,
    has 95,628,359 bytes: four for each number, and a few hundred for each array's name.
    """
    shapes = weight_shapes()
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    recorded = sum(size for name, size in sizes.items() if rule.recorded(name))
    assert len(sizes) == 470
    assert recorded == 34_432
    assert sum(sizes.values()) - recorded == 27_161_264 - 3_326_696 - 2_049_000 == 21_785_568
    rest = 95_628_359 - 4 * (sum(sizes.values()) + 2048 * 1008 + 1008)
    assert 0 < rest < 472 * 300


def torch_state() -> dict[str, Any]:
    """A state dict of zeros that take no memory."""
    shapes = {
        name: (*shape[:1:-1], *shape[:2]) if len(shape) == 4 else shape
        for name, shape in weight_shapes().items()
    }
    shapes |= {"fc.weight": (1008, FEATURES), "fc.bias": (1008,)}
    zeros: dict[str, Any] = {k: np.broadcast_to(np.float32(0), v) for k, v in shapes.items()}
    return zeros | {"Mixed_5b.branch1x1.bn.num_batches_tracked": np.int64(0)}


def test_torchs_layout_is_converted() -> None:
    state, name = torch_state(), "Mixed_6b.branch7x7_2.conv.weight"
    kernel = np.arange(128 * 128 * 7, dtype=np.float32).reshape(128, 128, 1, 7)
    weights = from_torch(state | {name: kernel})
    assert {name: array.shape for name, array in weights.items()} == weight_shapes()
    assert weights[name][0, 5, 3, 2] == kernel[2, 3, 0, 5]
    assert weights[name].flags.c_contiguous


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"Conv2d_3b_1x1.bn.bias": None}, "'Conv2d_3b_1x1.bn.bias': found no array"),
        (
            {"Mixed_7c.branch_pool.bn.bias": np.zeros(191, np.float32)},
            r"'Mixed_7c.branch_pool.bn.bias': found float32 \(191,\), expected float32 \(192,\)",
        ),
        (
            {"Conv2d_1a_3x3.conv.weight": np.zeros((3, 3, 3, 32), np.float32)},
            r".*: found float32 \(3, 32, 3, 3\), expected float32 \(3, 3, 3, 32\)",
        ),
        ({"Conv2d_1a_3x3.bn.bias": np.zeros(32)}, r".*: found float64 \(32,\)"),
        (
            {"AuxLogits.fc.bias": np.zeros(9)},
            r"'AuxLogits\.fc\.bias': found .*, expected no such array",
        ),
    ],
)
def test_weights_of_another_network_are_refused(changed: dict[str, Any], message: str) -> None:
    state = {name: x for name, x in (torch_state() | changed).items() if x is not None}
    with pytest.raises(InputError, match=f"^a file: {message}"):
        from_torch(state, "a file")
