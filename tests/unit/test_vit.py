"""Vision transformers against those of transformers in float64, with the same random weights.

benchmarks/vit.py writes the golden arrays.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vit_rule as rule

from tuner.errors import InputError
from tuner.metrics.resizing import resize_bytes
from tuner.metrics.vit import ARCHITECTURES, prepare
from tuner.metrics.vit_weights import from_published, network_of, published_names, published_shapes
from tuner.xla import jit

GOLDEN = Path(__file__).parents[1] / "golden" / "vit.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def published(name: str) -> dict[str, Any]:
    shapes = published_shapes(rule.SIZES[name])
    return {key: rule.draw(key, shape) for key, shape in shapes.items()}


@pytest.mark.parametrize("name", rule.SIZES)
def test_every_block_agrees_with_transformers(name: str, golden: dict[str, np.ndarray]) -> None:
    size = rule.SIZES[name]
    weights = jax.device_put(from_published(published(name), size, "weights"))
    network = network_of(size, weights)
    found = jit(lambda x: network.outputs(prepare(x, size)))(jnp.asarray(golden["resized"]))
    expected = [golden[f"{name}/block {i}"] for i in range(size.depth + 1)]
    expected.append(golden[f"{name}/features"])
    assert len(found) == len(expected)
    for here, there in zip(found, expected, strict=True):
        assert here.shape == there.shape
        error = np.linalg.norm(here - there) / np.linalg.norm(there)
        assert error < 2e-6, f"relative error {error:.1e}"
    features = expected[-1]  # were they nearly equal, agreement would prove little
    assert np.linalg.norm(features[0] - features[1]) > 0.03 * np.linalg.norm(features[0])
    assert features.shape == (3, size.features)


@pytest.mark.parametrize(("name", "pixels"), [("resized", 42), ("shrunk", 11)])
def test_images_are_resized_as_by_pillow(
    name: str, pixels: int, golden: dict[str, np.ndarray]
) -> None:
    found = np.asarray(resize_bytes(jnp.asarray(rule.images()), pixels))
    differences = np.abs(found - golden[name])
    assert differences.max() <= 1
    assert (differences > 0).mean() < 1e-3
    grey = np.asarray(resize_bytes(jnp.asarray(rule.images()[..., :1]), pixels))
    np.testing.assert_array_equal(grey, np.repeat(found[..., :1], 3, axis=-1))


@pytest.mark.parametrize(
    ("name", "count"),
    # As transformers counts them: Dinov2Model with a mask token, CLIPVisionModelWithProjection.
    [
        ("dinov2", 304_368_640 - 1024),
        ("dinov2-base", 86_580_480 - 768),
        ("clip", 304_293_888),
    ],
)
def test_full_networks_have_the_published_sizes(name: str, count: int) -> None:
    size = ARCHITECTURES[name]
    found = sum(int(np.prod(shape)) for _, _, shape in published_names(size))
    assert found == count


def test_unused_parts_of_published_files_are_ignored() -> None:
    size, arrays = rule.SIZES["dinov2"], published("dinov2")
    extra: dict[str, Any] = {"embeddings.mask_token": np.zeros((1, size.width), np.float32)}
    assert (
        from_published(arrays | extra, size, "x").keys() == from_published(arrays, size, "x").keys()
    )
    size, arrays = rule.SIZES["clip"], published("clip")
    extra = {"text_model.final_layer_norm.bias": np.zeros(3, np.float32)}
    extra |= {"vision_model.embeddings.position_ids": np.arange(10)[None]}
    from_published(arrays | extra, size, "x")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"layernorm.bias": None}, "'layernorm.bias': found no array"),
        ({"layernorm.bias": np.zeros(3, np.float32)}, r"found float32 \(3,\)"),
        ({"layernorm.bias": np.zeros(24, np.int64)}, r"found int64 \(24,\)"),
        ({"head.weight": np.zeros((2, 3))}, r"'head.weight': found \(2, 3\), expected no array"),
    ],
)
def test_weights_of_another_network_are_refused(changed: dict[str, Any], message: str) -> None:
    arrays = {k: x for k, x in (published("dinov2") | changed).items() if x is not None}
    with pytest.raises(InputError, match=f"^a file: .*{message}"):
        from_published(arrays, rule.SIZES["dinov2"], "a file")
