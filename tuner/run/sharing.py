"""What a study's workers measure with: made by one of them, read by all, byte for byte.

Different machines would train different classifiers and get slightly different statistics of the
real images, and so FIDs that could not be compared.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from tuner.data import ImageSet
from tuner.errors import InputError
from tuner.metrics.features import VERSION, Extractor, random_extractor, train_classifier
from tuner.metrics.frechet import Reference, reference
from tuner.run.artifacts import (
    decode_extractor,
    decode_reference,
    encode_extractor,
    encode_reference,
)
from tuner.run.files import StudyFiles
from tuner.run.lab import check_labels
from tuner.spec import StudySpec
from tuner.study.membership import Membership

EXTRACTOR, REFERENCE = "extractor.safetensors", "reference.safetensors"
PAUSE = 1.0  # seconds between looks at what another worker makes


class Measures(NamedTuple):
    """The extractor, and its view of the real images."""

    extractor: Extractor
    real: Reference


def shared_measures(
    spec: StudySpec,
    images: ImageSet,
    files: StudyFiles,
    membership: Membership | None,
    announce: Callable[[str], None],
) -> Measures:
    """The study's measures: found, or made by this worker, or awaited from the one that makes them.

    Without a ``membership`` (for those who only look) what is missing is made. InputError where
    the images are unfit for it.
    """
    waiting = False
    while True:
        found = _find(files)
        if found is not None:
            return found
        if membership is None or membership.may_prepare():
            try:
                if _find(files) is None:  # another worker may have made them meanwhile
                    announce("preparing the feature extractor")
                    _make(spec, images, files)
            finally:
                if membership is not None:
                    membership.prepared()
            continue
        if not waiting:
            announce("waiting for another worker to prepare the feature extractor")
        waiting = True
        time.sleep(PAUSE)


def _find(files: StudyFiles) -> Measures | None:
    """None where they are missing or damaged: then they are made anew."""
    extractor, real = files.read(EXTRACTOR), files.read(REFERENCE)
    if extractor is None or real is None:
        return None
    with suppress(InputError):
        return Measures(
            decode_extractor(extractor, files.locate(EXTRACTOR)),
            decode_reference(real, files.locate(REFERENCE)),
        )
    return None


def _make(spec: StudySpec, images: ImageSet, files: StudyFiles) -> None:
    data = _extractor(spec, images, files)
    extractor = decode_extractor(data, EXTRACTOR)
    real = reference(extractor(images.images))
    if real.trace == 0:
        raise InputError("data: found images that all look alike, expected a variety")
    files.write(EXTRACTOR, data)
    files.write(REFERENCE, encode_reference(real))


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
