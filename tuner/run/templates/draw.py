"""Draw images with the generator in this folder: python draw.py --count 64 --out images.png"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from network import PROGRAM, Generator

# The network with its weights, whose file has the format safetensors.
network: Any = nnx.eval_shape(lambda: Generator(PROGRAM, rngs=nnx.Rngs(0)))
data = Path(__file__).with_name("generator.safetensors").read_bytes()
start = 8 + int.from_bytes(data[:8], "little")
entries = json.loads(data[8:start])
for path, x in nnx.iter_graph(network):
    if isinstance(x, nnx.Variable):
        offset = start + entries[".".join(map(str, path))]["data_offsets"][0]
        x.set_value(np.frombuffer(data, np.float32, x.size, offset).reshape(x.shape))
generate = nnx.jit(lambda network, *inputs: network(*inputs, train=False))


def draw(count: int = 64, seed: int = 0, labels: Any = None) -> Any:
    """Images (count, height, width, channels), uint8. ``labels``: a class, or one per image."""
    key = jax.random.key(int(np.random.SeedSequence((seed, 3)).generate_state(1)[0]))
    inputs = [np.asarray(jax.random.normal(key, (count, PROGRAM.latent_dim)))]
    if PROGRAM.classes:
        if labels is None:  # about equally many images of each class
            limits = np.cumsum([1 / PROGRAM.classes] * PROGRAM.classes)
            positions = (0.5 + 0.6180339887498949 * np.arange(count)) % 1 * limits[-1]
            labels = np.searchsorted(limits, positions, side="right")
        inputs.append(np.broadcast_to(np.int32(labels), count))
    parts = zip(*(np.array_split(x, count // 256 + 1) for x in inputs), strict=True)
    with jax.default_matmul_precision("highest"):
        images = np.concatenate([generate(network, *part) for part in parts])
    return np.clip(np.rint((images + 1) * 127.5), 0, 255).astype(np.uint8)


if __name__ == "__main__":
    from PIL import Image

    parser = argparse.ArgumentParser(description="Draw images with the generator in this folder.")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--label", type=int, help="class of all images; by default all classes")
    parser.add_argument("--out", default="images.png")
    given = parser.parse_args()
    images = draw(given.count, given.seed, given.label)
    side = int(np.ceil(given.count**0.5))
    images.resize(side, side, *images.shape[1:], refcheck=False)  # the rest is black
    rows = [np.hstack(list(row)) for row in images]
    Image.fromarray(np.vstack(rows).squeeze()).save(given.out)
