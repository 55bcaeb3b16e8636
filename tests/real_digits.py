"""Real digits of all ten classes in MNIST's file format."""

import gzip
import struct
from pathlib import Path

import numpy as np

from tuner.data import load_images
from tuner.spec.data import DataSpec


def write_digits(folder: Path, count: int) -> None:
    """Write ``count`` digits and their labels to a folder."""
    mnist = load_images(DataSpec())
    chosen = np.random.default_rng(0).permutation(len(mnist.images))[:count]
    assert mnist.labels is not None
    images, labels = mnist.images[chosen, 2:-2, 2:-2, 0], mnist.labels[chosen].astype(np.uint8)
    for name, array in (("train-images-idx3", images), ("train-labels-idx1", labels)):
        header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        (folder / f"{name}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
