"""The weights and images behind tests/golden/inception.npz, by a rule in numpy: no JAX, no torch.

Each array is drawn by a generator of its own, seeded by ``SEED`` and the CRC-32 of its name, so
the order does not matter. Kernels (HWIO) are standard normals times sqrt(2 / fan-in), after He et
al. 2015; a batch norm's scales and offsets are 1 plus a tenth of them. (Were offsets around 0, half
of all ReLUs would be shut, and rounding errors grow a hundredfold on their way.) What batch norm
has recorded can't be drawn: it must fit what arrives, or 40 layers blow the features up, and
images come out all alike. It is measured once, layer by layer, on ``calibration_images``, rounded
to float16 and kept among the golden arrays, all layers in one, in the order of their names.
"""

import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Images = NDArray[np.uint8]

SEED = 20151205
RECORDED = ("running_mean", "running_var")
SIZES = ((1, 1), (28, 28), (17, 45), (299, 299), (300, 640), (801, 33))  # images that are resized
EDGES_AND_BETWEEN = np.r_[0:3, 20:290:45, 296:299]


def draw_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """All but what batch norm has recorded."""
    return {name: _draw(name, shape) for name, shape in shapes.items() if not recorded(name)}


def recorded(name: str) -> bool:
    return name.endswith(RECORDED)


def _draw(name: str, shape: tuple[int, ...]) -> Array:
    rng = np.random.default_rng([SEED, zlib.crc32(name.encode())])
    normals = rng.standard_normal(shape, np.float32)
    if len(shape) == 4:
        return normals * np.float32(np.sqrt(2 / np.prod(shape[:3])))
    return 1 + np.float32(0.1) * normals


def recorded_statistics(
    shapes: Mapping[str, tuple[int, ...]], golden: Mapping[str, NDArray[np.floating]]
) -> dict[str, Array]:
    """The means and variances by name, cut out of the golden arrays."""
    found: dict[str, Array] = {}
    for kind in RECORDED:
        names = sorted(name for name in shapes if name.endswith(kind))
        ends = np.cumsum([shapes[name][0] for name in names])
        pieces = np.split(golden[kind].astype(np.float32), ends[:-1])
        found.update(zip(names, pieces, strict=True))
    return found


def calibration_images() -> list[Images]:
    """Noise from coarse to fine, as images of one each (1, h, w, 3)."""
    return [noise(1, size, size, 3) for size in (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)]


def noise(count: int, height: int, width: int, channels: int) -> Images:
    """Images (count, height, width, channels), each pixel uniform in 0..255."""
    rng = np.random.default_rng([SEED, count, height, width, channels])
    return rng.integers(0, 256, (count, height, width, channels), np.uint8)


def two_images() -> Images:
    """Those whose features are kept: (2, 20, 33, 3)."""
    return noise(2, 20, 33, 3)


def sample_block(output: NDArray[np.floating]) -> NDArray[np.floating]:
    """What is kept of a block's output (n, h, w, c): its corners, sides and centre, where paddings
    show, and every eighth channel."""
    kept = [0, output.shape[1] // 2, output.shape[1] - 1]
    return output[:, kept][:, :, kept, ::8]


def sample_input(images: NDArray[np.floating]) -> NDArray[np.floating]:
    """What is kept of an image as it enters the network (n, 299, 299, c): borders and a grid."""
    return images[:, EDGES_AND_BETWEEN][:, :, EDGES_AND_BETWEEN]
