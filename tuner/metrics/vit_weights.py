"""The published names of vision transformers' weights, and their conversion to Flax."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from tuner.errors import InputError
from tuner.metrics.vit import Architecture, VisionTransformer

Weights = dict[str, Array]

# Parts of the published files that the image encoder does not use.
_UNUSED = ("text_model.", "text_projection.", "logit_scale", "embeddings.mask_token")
_POSITION_IDS = "position_ids"

_DINOV2 = {
    "class_token": "embeddings.cls_token",
    "positions": "embeddings.position_embeddings",
    "patches": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
    "blocks": "encoder.layer",
    "query": "attention.attention.query",
    "key": "attention.attention.key",
    "value": "attention.attention.value",
    "out": "attention.output.dense",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
    "scale1": "layer_scale1.lambda1",
    "scale2": "layer_scale2.lambda1",
}
_CLIP = {
    "class_token": "vision_model.embeddings.class_embedding",
    "positions": "vision_model.embeddings.position_embedding.weight",
    "patches": "vision_model.embeddings.patch_embedding",
    "first_norm": "vision_model.pre_layrnorm",  # spelt like this in the published files
    "norm": "vision_model.post_layernorm",
    "projection": "visual_projection",
    "blocks": "vision_model.encoder.layers",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
_ARRAYS = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def abstract_network(size: Architecture) -> VisionTransformer:
    """The network with shapes for weights."""
    network: VisionTransformer = nnx.eval_shape(lambda: VisionTransformer(size, rngs=nnx.Rngs(0)))
    return network


def network_of(size: Architecture, weights: Weights) -> VisionTransformer:
    """The network with ``weights`` by their names in Flax, such as ``blocks.0.query.kernel``."""
    graph, state = nnx.split(abstract_network(size))
    flat = {
        path: leaf.replace(weights[".".join(map(str, path))])
        for path, leaf in nnx.to_flat_state(state)
    }
    network: VisionTransformer = nnx.merge(graph, nnx.from_flat_state(flat))
    return network


def published_names(size: Architecture) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Each weight's name in Flax, its published name, and its shape in Flax."""
    table = _CLIP if size.is_clip else _DINOV2
    for path, leaf in nnx.to_flat_state(nnx.state(abstract_network(size))):
        *modules, last = map(str, path)
        parts = [table.get(part, part) for part in modules]
        parts.append(_ARRAYS.get(last) or table[last])
        yield ".".join(map(str, path)), ".".join(parts), leaf.shape


def published_shapes(size: Architecture) -> dict[str, tuple[int, ...]]:
    """Shapes of the published arrays, in PyTorch's layout."""
    found = {}
    for name, published, shape in published_names(size):
        if name.endswith("kernel"):
            shape = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]
        elif not size.is_clip and name in ("class_token", "positions"):
            shape = (1, 1, *shape) if name == "class_token" else (1, *shape)
        found[published] = shape
    return found


def from_published(
    arrays: Mapping[str, NDArray[Any]], size: Architecture, origin: str
) -> dict[str, NDArray[np.float32]]:
    """Convert the arrays of a published file to float32, by their names in Flax.

    InputError, which names the ``origin``, for the first array that is missing, unexpected or of
    another shape.
    """
    found, known = {}, set()
    for name, published, shape in published_names(size):
        array = arrays.get(published)
        known.add(published)
        is_kernel = name.endswith("kernel")
        converted = None if array is None else _converted(array, shape, is_kernel=is_kernel)
        if converted is None or array is None or array.dtype.kind != "f":
            what = "no array" if array is None else f"{array.dtype} {array.shape}"
            text = f"{origin}: {published!r}: found {what}"
            raise InputError(f"{text}; this is the file of another network")
        found[name] = converted
    for name in sorted(arrays.keys() - known):
        if not name.startswith(_UNUSED) and not name.endswith(_POSITION_IDS):
            raise InputError(f"{origin}: {name!r}: found {arrays[name].shape}, expected no array")
    return found


def _converted(
    array: NDArray[Any], shape: tuple[int, ...], *, is_kernel: bool
) -> NDArray[np.float32] | None:
    """The array as Flax lays it out; None if its shape does not fit."""
    if is_kernel:
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    while array.ndim > len(shape) and len(array) == 1:  # DINOv2's tokens have a batch dimension
        array = array[0]
    return np.ascontiguousarray(array, np.float32) if array.shape == shape else None
