"""What a study's workers measure with: made by one of them, read by all, byte for byte.

Different machines would train different classifiers and get slightly different statistics of the
real images, and so FIDs that could not be compared.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import jax

from tuner.data import ImageSet
from tuner.errors import InputError
from tuner.metrics.features import VERSION, Extractor, random_extractor, train_classifier
from tuner.metrics.suite import RealSide, real_side
from tuner.run.artifacts import (
    decode_extractor,
    decode_real_side,
    encode_extractor,
    encode_real_side,
)
from tuner.run.files import StudyFiles
from tuner.run.lab import check_labels
from tuner.run.weights import PUBLISHED_AT, load_inception
from tuner.spec import StudySpec
from tuner.study.membership import Membership

EXTRACTOR, REFERENCE = "extractor.safetensors", "reference.safetensors"
WEIGHTS_VARIABLE = "TUNER_WEIGHTS"
PAUSE = 1.0  # seconds between looks at what another worker makes


class Measures(NamedTuple):
    """The extractor, and its view of the real images."""

    extractor: Extractor
    real: RealSide


def shared_measures(
    spec: StudySpec,
    images: ImageSet,
    files: StudyFiles,
    membership: Membership | None,
    announce: Callable[[str], None],
    weights: str | None = None,
) -> Measures:
    """The study's measures: found, or made by this worker, or awaited from the one that makes them.

    Without a ``membership`` (for those who only look) what is missing is made. Inception's
    ``weights`` are read where this machine has them. InputError where they, or the images, are
    unfit for it.
    """
    published = inception(spec, weights)
    waiting = False
    while True:
        found = _find(files, published)
        if found is not None:
            return found
        if membership is None or membership.may_prepare():
            try:
                if _find(files, published) is None:  # another may have made them meanwhile
                    announce("preparing the feature extractor and the real images' statistics")
                    _make(spec, images, files, published)
            finally:
                if membership is not None:
                    membership.prepared()
            continue
        if not waiting:
            announce("waiting for another worker to prepare the feature extractor")
        waiting = True
        time.sleep(PAUSE)


def inception(spec: StudySpec, weights: str | None = None) -> Extractor | None:
    """The published network, from the file ``weights`` or where the environment or the study say;
    None where the study does not use it. InputError where the file is missing or another."""
    metrics = spec.metrics
    if metrics.features != "inception":
        return None
    path = weights or os.environ.get(WEIGHTS_VARIABLE) or metrics.weights
    if not path:
        raise InputError(
            f"metrics.weights: found neither a path nor the variable {WEIGHTS_VARIABLE}, expected "
            f"the file with SHA-256 {metrics.weights_sha256}, published at {PUBLISHED_AT}"
        )
    arrays = load_inception(str(Path(path).expanduser()), metrics.weights_sha256)
    return Extractor("inception", dict(jax.device_put(arrays)), None, metrics.input)


def _find(files: StudyFiles, published: Extractor | None) -> Measures | None:
    """None where they are missing or damaged: then they are made anew."""
    real = files.read(REFERENCE)
    extractor = None if published else files.read(EXTRACTOR)
    if real is None or (extractor is None and published is None):
        return None
    with suppress(InputError):
        seen = decode_real_side(real, files.locate(REFERENCE))
        if extractor is None:
            assert published is not None
            return Measures(published, seen)
        return Measures(decode_extractor(extractor, files.locate(EXTRACTOR)), seen)
    return None


def _make(
    spec: StudySpec, images: ImageSet, files: StudyFiles, published: Extractor | None
) -> None:
    data = b"" if published else _extractor(spec, images, files)
    extractor = published or decode_extractor(data, EXTRACTOR)
    features = extractor(images.images)
    classes = extractor.classes(features)
    real = real_side(features, classes, extractor.kinds, spec.metrics.samples)
    if real.moments.trace == 0:
        raise InputError("data: found images that all look alike, expected a variety")
    if not published:
        files.write(EXTRACTOR, data)
    files.write(REFERENCE, encode_real_side(real))


def _extractor(spec: StudySpec, images: ImageSet, files: StudyFiles) -> bytes:
    """The extractor as bytes: an earlier one of this study, a classifier that another study
    trained on the same images, or a new one."""
    if spec.metrics.features == "random":
        return encode_extractor(random_extractor(images.shape))
    check_labels(spec, images)
    name = f"extractors/classifier-{VERSION}-{images.fingerprint}.safetensors"
    for data in (files.read(EXTRACTOR), files.store.read(name)):
        with suppress(InputError):
            if data is not None:
                decode_extractor(data, name)
                return data
    assert images.labels is not None
    made = encode_extractor(train_classifier(images.images, images.labels))
    files.store.write(name, made)
    return made
