"""Training on images held on the device, compared with images streamed from a file on disk.

    python benchmarks/streaming.py [--rounds 5] [--width 16] [--images 6400]

Both train epochs of the same trial in one process, in alternation; the first epoch of each, which
compiles, is left out. The images are random bytes: their content does not affect speed.
"""

import tempfile
from pathlib import Path
from statistics import median

import jax
import numpy as np
import typer
from default_trial import alternate, epoch_of


def main(rounds: int = 5, width: int = 16, images: int = 6400) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shape = (images, 32, 32, 1)
        file = np.lib.format.open_memmap(Path(folder) / "images.npy", "w+", np.uint8, shape)
        file[:] = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        resident, streamed = epoch_of(jax.device_put(file), width), epoch_of(file, width)
        seconds = alternate({"resident": resident, "streamed": streamed}, rounds)
    fast, slow = median(seconds["resident"]), median(seconds["streamed"])
    print(f"resident {images / fast:,.0f} images/s, streamed {images / slow:,.0f}")
    print(f"streamed time / resident time: {slow / fast:.3f}")


if __name__ == "__main__":
    typer.run(main)
