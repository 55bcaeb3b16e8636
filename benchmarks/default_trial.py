"""The trial of an empty study file, trained without a study; needs JAX, Flax and Optax only."""

import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from tuner.gan.input_pipeline import Images
from tuner.gan.state import init_state
from tuner.gan.training import train_epoch
from tuner.trial import Hyperparameters, Program

SHAPE = (32, 32, 1)
LONG = 1000  # epochs, of a trial that is worth the best program
SETTINGS = {
    "generator_learning_rate": 2e-4,
    "discriminator_learning_rate": 2e-4,
    "generator_beta1": 0.5,
    "discriminator_beta1": 0.5,
    "generator_beta2": 0.999,
    "discriminator_beta2": 0.999,
    "momentum": 0.9,
    "rms_decay": 0.9,
    "weight_clip": 0.01,
    "dropout": 0.3,
    "augment_probability": 1.0,
    "augment_probability_final": 1.0,
}


def default_program(width: int, batch_size: int = 64) -> Program:
    """The tutorial's DCGAN for grey images of 32x32 pixels."""
    networks = "dcgan", "dcgan", width, 100, SHAPE
    return Program(*networks, batch_size, "non_saturating", "adam", "adam", 1, ema=False)


def default_numbers(program: Program, images: int, epochs: int = LONG) -> Hyperparameters:
    """The default hyperparameters of a trial of ``epochs`` on ``images``."""
    total = float(epochs * program.images_per_epoch(images))
    rest = dict.fromkeys(Hyperparameters._fields, 0.0)
    return Hyperparameters(**rest | SETTINGS | {"total_images": total, "decay_images": total})


def random_images(count: int) -> NDArray[np.uint8]:
    """Noise: the content of images does not affect speed."""
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE), np.uint8)


def epoch_of(images: Images, width: int, batch_size: int = 64) -> Callable[[], None]:
    """A function that trains the next epoch of the default trial on these images."""
    program = default_program(width, batch_size)
    numbers = Hyperparameters(*map(jnp.float32, default_numbers(program, len(images))))
    state, epoch = init_state(program, numbers, 0), 0

    def run() -> None:
        nonlocal state, epoch
        state, losses = train_epoch(program, state, numbers, images, None, epoch, LONG)
        jax.device_get(losses)
        epoch += 1

    return run


def alternate(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time the runs in alternation; seconds without the first round, which compiles."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return {name: times[1:] for name, times in seconds.items()}
