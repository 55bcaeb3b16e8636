"""Copies of training images among generated ones, by distances to the nearest training image.

The closeness of an image x with nearest training image t is |x - t| / |t - t'|, where t' is the
training image nearest to t among those that differ from it, all in feature space. Below 1 an image
counts as inauthentic in Alaa et al. 2022 ("How Faithful is your Synthetic Data?", section 3.3);
dividing by |t - t'| adapts to dense and sparse parts of the data. But new real images often are
below 1, too, so, as in the test of Meehan et al. 2020 ("A Non-Parametric Test to Detect
Data-Copying in Generative Models"), generated images are compared with held-out ones: an image
counts as a copy if it is closer than 95% of the held-out images are.
"""

import numpy as np
from numpy.typing import NDArray

from tuner.metrics.distances import Samples, approximate, blocks, centred, of_pairs
from tuner.metrics.fid import Features, Matrix

CLOSEST = 0.05  # share of the held-out images that are as close as a copy
CANDIDATES = 8  # nearest training images in float32, whose distances are computed in float64

Indices = NDArray[np.intp]


class CopyDetector:
    """Compares images with the training images, and with how close held-out images are to them."""

    def __init__(self, training: Features, held_out: Features) -> None:
        """Features (n, d) and (m, d)."""
        self._training = centred(training)
        found = self.closeness(held_out)
        self._limit = float(np.quantile(found, CLOSEST, method="lower"))
        self._expected = float((found <= self._limit).mean())

    def copied(self, features: Features) -> float:
        """Estimate the share of copies among images with features (n, d), beyond that of new ones.

        0 for new images; 1 - ``CLOSEST`` if all are copies.
        """
        share = float((self.closeness(features) <= self._limit).mean())
        return max(0.0, share - self._expected)

    def closeness(self, features: Features) -> Matrix:
        """Squared closeness (n,) of images with features (n, d): 0 for equal features."""
        samples = centred(features, self._training.centre)
        indices, squared = self._nearest(samples, 1)
        near, where = np.unique(indices[:, 0], return_inverse=True)
        spacing = self._spacing(near)[where]
        distances = squared[:, 0]
        ratios = np.divide(distances, spacing, out=np.full(len(spacing), np.inf), where=spacing > 0)
        return np.where(distances == 0, 0.0, ratios)

    def nearest(self, features: Features, count: int) -> Indices:
        """Indices (n, count) of the training images nearest to each image, the nearest first."""
        return self._nearest(centred(features, self._training.centre), count)[0]

    def _nearest(self, samples: Samples, count: int) -> tuple[Indices, Matrix]:
        """Indices and squared distances (n, count), in float64, of the nearest training images."""
        wanted = min(max(CANDIDATES, 2 * count), len(self._training.features))
        indices = np.empty((len(samples.features), wanted), np.intp)
        for rows in blocks(len(samples.features)):
            squared = approximate(samples.part(rows), self._training)
            indices[rows] = np.argpartition(squared, wanted - 1, axis=1)[:, :wanted]
        found = of_pairs(
            samples, self._training, np.repeat(np.arange(len(indices)), wanted), indices.ravel()
        ).reshape(indices.shape)
        order = np.argsort(found, axis=1, kind="stable")[:, :count]
        return np.take_along_axis(indices, order, 1), np.take_along_axis(found, order, 1)

    def _spacing(self, chosen: Indices) -> Matrix:
        """Squared distances of training images to the nearest different one; 0 if all are equal."""
        samples = centred(self._training.features[chosen], self._training.centre)
        squared = self._nearest(samples, CANDIDATES)[1]
        different = np.where(squared > 0, squared, np.inf).min(axis=1)
        return np.where(np.isfinite(different), different, 0.0)
