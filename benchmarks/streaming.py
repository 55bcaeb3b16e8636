"""Training from images on the device beside training from a file on disk, streamed.

    python benchmarks/streaming.py [--rounds 5] [--width 16]

Both train epochs of the same trial in one process, in turn; the first of each (compilation) is left
out. The images are random bytes: what they show does not matter to speed.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from tuner.gan.feeding import Images
from tuner.gan.state import init_state
from tuner.gan.training import train_epoch
from tuner.specfile import parse_spec
from tuner.study.space import trial_config
from tuner.trial import Hyperparameters, Premises


def epochs(source: Images, width: int, rounds: int) -> list[float]:
    """Seconds of each epoch."""
    spec = parse_spec({"trial": {"width": width}}, "benchmark")
    premises = Premises((32, 32, source.shape[3]), len(source))
    program, numbers, seed, _ = trial_config(spec, {}, 0, premises)
    h = Hyperparameters(*map(jnp.float32, numbers))
    state, seconds = init_state(program, h, seed), []
    for epoch in range(rounds + 1):
        began = time.perf_counter()
        state, losses = train_epoch(program, state, h, source, None, epoch)
        jax.device_get(losses)
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--images", type=int, default=6400)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shape = (options.images, 32, 32, 1)
        file = np.lib.format.open_memmap(Path(folder) / "images.npy", "w+", np.uint8, shape)
        file[:] = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        resident: list[float] = []
        streamed: list[float] = []
        for _ in range(options.rounds):
            resident += epochs(jax.device_put(np.asarray(file)), options.width, 1)
            streamed += epochs(file, options.width, 1)
    fast, slow = statistics.median(resident), statistics.median(streamed)
    print(f"resident {options.images / fast:,.0f} images/s, streamed {options.images / slow:,.0f}")
    print(f"streamed time / resident time: {slow / fast:.3f}")


if __name__ == "__main__":
    main()
