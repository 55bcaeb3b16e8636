"""Custom metrics of a study: functions of features and images."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tuner.metrics.fid import Features


class Sample(NamedTuple):
    """Images of one kind, with their features in the same order."""

    features: Features  # (n, d), float32
    images: NDArray[np.uint8]  # (n, h, w, c)


OwnMetric = Callable[[Sample, Sample], float]  # of real and generated images
OWN_METRICS: dict[str, OwnMetric] = {}  # by name; filled by run.custom_metrics


def own_metrics(names: Iterable[str], real: Sample, generated: Sample) -> Mapping[str, float]:
    """Compute custom metrics; those that are not finite are left out.

    TypeError if one returns anything but a number; exceptions of the metrics pass through.
    """
    found = {}
    for name in names:
        value = OWN_METRICS[name](real, generated)
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise TypeError(f"{name} returned {type(value).__name__}, expected a number") from None
        if math.isfinite(number):
            found[name] = number
    return found
