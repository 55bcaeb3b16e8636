"""Vision transformers compared with those of transformers, with the same random weights.

    python benchmarks/vit.py

rewrites tests/golden/vit.npz: inputs and outputs of the small networks of tests/vit_rule.py, block
by block, in float64, and resized images by Pillow; positions by PyTorch's interpolation. Weights
and images are not stored: tests/vit_rule.py draws them.

    python benchmarks/vit.py --full

compares the networks of full size with random weights instead, in float32.

Needs torch==2.13.0 and transformers (5.x).
"""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from PIL import Image
from torch.nn import functional

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
transformers: Any = importlib.import_module("transformers")
rule = importlib.import_module("vit_rule")
vit = importlib.import_module("tuner.metrics.vit")

# Names of weights within the installed transformers, and in the published files.
RENAMED = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}


def resized(images: Any, pixels: int) -> Any:
    """Images resized by Pillow."""
    size = (pixels, pixels)
    pictures = [Image.fromarray(x).resize(size, Image.Resampling.BICUBIC) for x in images]
    return np.stack([np.asarray(picture) for picture in pictures])


def network_of(size: Any) -> Any:
    """The network of transformers with weights by the rule, its positions interpolated."""
    shared = {
        "hidden_size": size.width,
        "num_hidden_layers": size.depth,
        "num_attention_heads": size.heads,
        "image_size": size.pixels,
        "patch_size": size.patch,
    }
    if size.is_clip:
        config = transformers.CLIPVisionConfig(
            **shared, intermediate_size=4 * size.width, projection_dim=size.projection
        )
        network = transformers.CLIPVisionModelWithProjection(config)
    else:
        network = transformers.Dinov2Model(transformers.Dinov2Config(**shared))
    state = {name: _weight(name, tensor, size) for name, tensor in network.state_dict().items()}
    network.load_state_dict(state)
    return network.eval()


def _weight(name: str, tensor: Any, size: Any) -> Any:
    if not size.is_clip:
        for here, published in RENAMED.items():
            name = name.replace(here, published)
    elif not name.startswith(("vision_model.", "visual_projection")):
        name = f"vision_model.{name}"
    if name == "embeddings.position_embeddings" and size.grid != size.pixels // size.patch:
        return torch.from_numpy(interpolated(size))
    return torch.from_numpy(np.asarray(rule.draw(name, tuple(tensor.shape))))


def interpolated(size: Any) -> Any:
    """DINOv2's positions by PyTorch's interpolation, as its authors call it."""
    learned = rule.draw("embeddings.position_embeddings", (1, 1 + size.grid**2, size.width))
    square = torch.from_numpy(learned[:, 1:]).double()
    square = square.reshape(1, size.grid, size.grid, -1).permute(0, 3, 1, 2)
    scale = (size.pixels // size.patch + 0.1) / size.grid
    square = functional.interpolate(square, scale_factor=(scale, scale), mode="bicubic")
    patches = square.permute(0, 2, 3, 1).reshape(1, -1, size.width).numpy()
    return np.concatenate([learned[:, :1], patches], axis=1)


def outputs(size: Any, dtype: Any) -> dict[str, Any]:
    """Tokens before the first and after each block, and the features, of the rule's images."""
    mean, deviation = vit.CLIP if size.is_clip else vit.IMAGENET
    x = (resized(rule.images(), size.pixels) / 255.0 - mean) / deviation
    network = network_of(size).to(dtype)
    with torch.no_grad():
        pixels = torch.from_numpy(x).to(dtype).permute(0, 3, 1, 2)
        found = network(pixel_values=pixels, output_hidden_states=True)
    features = found.image_embeds if size.is_clip else found.pooler_output
    if size.is_clip:
        features = features / features.norm(dim=-1, keepdim=True)
    arrays = {f"block {i}": tokens.numpy() for i, tokens in enumerate(found.hidden_states)}
    return arrays | {"features": features.numpy()}


def compare_full() -> None:
    """Print the relative difference of the features of full-size networks."""
    import jax

    weights = importlib.import_module("tuner.metrics.vit_weights")
    for name, size in vit.ARCHITECTURES.items():
        expected = outputs(size, torch.float32)["features"]
        arrays = {
            published: np.asarray(rule.draw(published, shape))
            for published, shape in weights.published_shapes(size).items()
        }
        loaded = jax.device_put(weights.from_published(arrays, size, name))
        network = weights.network_of(size, loaded)
        found = jax.jit(lambda x, n=network, s=size: n(vit.prepare(x, s)))(rule.images())
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        print(f"{name}: {sum(x.size for x in arrays.values()):,} weights, difference {error:.1e}")


def main(*, full: bool = False) -> None:
    """Compare networks of full size, or write the golden arrays."""
    if full:
        compare_full()
        return
    arrays: dict[str, Any] = {}
    for name, size in rule.SIZES.items():
        found = outputs(size, torch.float64)
        arrays |= {f"{name}/{key}": x.astype(np.float32) for key, x in found.items()}
    arrays["resized"] = resized(rule.images(), 42)
    arrays["shrunk"] = resized(rule.images(), 11)
    np.savez_compressed(ROOT / "tests" / "golden" / "vit.npz", **arrays)


if __name__ == "__main__":
    typer.run(main)
