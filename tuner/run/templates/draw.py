"""Draw images with the generator in this folder: python draw.py --count 64 --out images.png

Needs flax, with the jax and numpy that it brings, and safetensors.
"""

import argparse
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from network import PROGRAM, Generator
from safetensors.numpy import load_file


def load() -> Any:
    """The network with its weights and the statistics of its batch norms."""
    network: Any = nnx.eval_shape(lambda: Generator(PROGRAM, rngs=nnx.Rngs(0)))
    weights = load_file(Path(__file__).with_name("generator.safetensors"))
    flat = [
        (path, x.replace(weights[".".join(map(str, path))]))
        for path, x in nnx.to_flat_state(nnx.state(network))
    ]
    nnx.update(network, nnx.from_flat_state(flat))
    return network


def draw(count: int = 64, seed: int = 0, labels: Any = None) -> Any:
    """Images (count, height, width, channels), uint8. ``labels``: a class, or one per image."""
    key = jax.random.key(int(np.random.SeedSequence((seed, 3)).generate_state(1)[0]))
    latents = np.asarray(jax.random.normal(key, (count, PROGRAM.latent_dim)))
    if labels is None:  # about equally many images of every class, as tuner draws them
        limits = np.cumsum([1 / max(1, PROGRAM.classes)] * max(1, PROGRAM.classes))
        positions = (0.5 + 0.6180339887498949 * np.arange(count)) % 1.0 * limits[-1]
        labels = np.searchsorted(limits, positions, side="right")
    classes = np.broadcast_to(np.int32(labels), count)
    network = load()
    run = nnx.jit(lambda net, z, y: net(z, y if PROGRAM.classes else None, train=False))
    with jax.default_matmul_precision("highest"):
        parts = [
            np.asarray(run(network, latents[some], classes[some]))
            for some in np.array_split(np.arange(count), math.ceil(count / 256))
        ]
    return np.clip(np.rint((np.concatenate(parts) + 1) * 127.5), 0, 255).astype(np.uint8)


def png(images: Any) -> bytes:
    """The images as a square grid in a PNG file."""
    side, (count, height, width, channels) = math.isqrt(len(images) - 1) + 1, images.shape
    full = np.pad(images, [(0, side * side - count), (0, 0), (0, 0), (0, 0)])
    rows = full.reshape(side, side, height, width, channels).swapaxes(1, 2)
    lines = b"".join(b"\0" + row.tobytes() for row in rows.reshape(side * height, -1))
    head = struct.pack(">IIBBBBB", side * width, side * height, 8, channels - 1, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw images with the generator in this folder.")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--label", type=int, help="class of all images; default: all classes")
    parser.add_argument("--out", default="images.png")
    given = parser.parse_args()
    Path(given.out).write_bytes(png(draw(given.count, given.seed, given.label)))
