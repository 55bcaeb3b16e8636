"""The schedules of R3GAN (Huang et al. 2024) in plain Python, written from their definition.

Each quantity is its initial value plus (1 - cos(pi n / N)) / 2 of the way to its final one, where n
is the number of real images seen before the update and N the length of the burn-in in images.
After the burn-in it stays at the final value. The numbers are those of the authors' presets.
"""

import math
from typing import NamedTuple


def scheduled(initial: float, final: float, seen: float, burn_in: float) -> float:
    """The value for the update before which ``seen`` real images were seen."""
    if seen >= burn_in:
        return final
    return initial + (1 - math.cos(math.pi * seen / burn_in)) / 2 * (final - initial)


def ema_decay(half_life: float, images: float) -> float:
    """The decay of the average over an update with ``images``; 0 if the half-life is 0."""
    return 0.5 ** (images / half_life) if half_life else 0.0


class Preset(NamedTuple):
    """A preset: batch size, burn-in and half-life in images, initial and final values."""

    batch: int
    burn_in: float
    r1: tuple[float, float]  # and r2: the penalties are weighted with half of it, as in tuner
    ema_half_life: tuple[float, float]
    augment_probability: tuple[float, float]
    learning_rate: tuple[float, float] = (2e-4, 5e-5)
    beta2: tuple[float, float] = (0.9, 0.99)


PRESETS = {
    "CIFAR-10": Preset(512, 2e7, (0.05, 0.005), (0, 5e6), (0, 0.55)),
    "FFHQ-64": Preset(256, 2e7, (2, 0.2), (0, 5e5), (0, 0.3)),
    "FFHQ-256": Preset(256, 2e7, (150, 15), (0, 5e5), (0, 0.3)),
    "ImageNet-32": Preset(4096, 2e8, (0.5, 0.05), (0, 5e7), (0, 0.5)),
    "ImageNet-64": Preset(4096, 2e8, (1, 0.1), (0, 5e7), (0, 0.4)),
}
