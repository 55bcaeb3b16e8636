"""The extractor and the reference statistics: made by one worker and read by all.

Different machines would train different classifiers and compute slightly different statistics of
the real images, so their FIDs could not be compared.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, TypeGuard

import jax

from tuner.data import ImageSet
from tuner.environment import measures_cache, variable
from tuner.errors import InputError, TunerError
from tuner.files.folders import MAX_ARRAY_BYTES, DirectoryStore
from tuner.files.inception_weights import PUBLISHED_AT, load_inception
from tuner.files.serialization import (
    decode_extractor,
    decode_reference_statistics,
    encode_extractor,
    encode_reference_statistics,
)
from tuner.files.study_files import StudyFiles
from tuner.files.transformer_weights import load_transformer, needed
from tuner.metrics import evaluate
from tuner.metrics.evaluate import ReferenceStatistics
from tuner.metrics.extractors import VERSION, Extractor, random_extractor, train_classifier
from tuner.paths import local_path
from tuner.phases import Phase, PhaseClock
from tuner.run.signals import Stop
from tuner.spec.metrics import INCEPTION_SHA256, PRETRAINED
from tuner.spec.study import StudySpec
from tuner.study.session import WorkerSession
from tuner.xla import keep_private

EXTRACTOR, REFERENCE = "extractor.safetensors", "reference.safetensors"
WEIGHTS_VARIABLE = "TUNER_WEIGHTS"
PAUSE = 1.0  # seconds between checks while another worker prepares the files


class StoppedError(Exception):
    """A stop was requested before the worker could begin."""


class Measures(NamedTuple):
    """The extractor, and the real images' statistics in its features."""

    extractor: Extractor
    real: ReferenceStatistics


def shared_measures(
    spec: StudySpec,
    images: ImageSet,
    files: StudyFiles,
    session: WorkerSession | None,
    announce: Callable[[str], None],
    weights: str | None = None,
    stop: Stop | None = None,
) -> Measures:
    """Read the study's measures, make them, or wait for the worker that makes them.

    Without a ``session``, as for read-only commands, makes what is missing. ``weights`` is the path
    of a published network's weights on this machine. InputError if the weights or the images are
    unsuitable; StoppedError if ``stop`` is requested while waiting.
    """
    published = load_published_extractor(spec, weights)
    clock = PhaseClock() if session is None else session.clock
    waiting = False
    while (found := _find(files, images, published)) is None:
        if session is None or session.may_prepare():
            try:
                if _find(files, images, published) is None:  # unless another worker just did
                    announce("preparing the feature extractor and the real images' statistics")
                    _make(spec, images, files, published, clock)
            finally:
                if session is not None:
                    session.prepared()
            continue
        if not waiting:
            announce("waiting for another worker to prepare the feature extractor")
        waiting = True
        stop = stop or Stop()
        with clock.phase(Phase.WAITING, "waiting for the extractor"):
            stop.wait(PAUSE)
        if stop.requested:
            raise StoppedError
    return found


def load_published_extractor(spec: StudySpec, weights: str | None = None) -> Extractor | None:
    """Load a published network from ``weights``, else the environment's path, else the study's.

    None if the study uses none; InputError if the file is missing or a different one.
    """
    metrics = spec.metrics
    if metrics.features not in PRETRAINED:
        return None
    sha256 = metrics.weights_sha256
    paths = {
        "--weights": weights,
        WEIGHTS_VARIABLE: variable(WEIGHTS_VARIABLE),
        "metrics.weights": metrics.weights,
    }
    origin, path = next(((key, value) for key, value in paths.items() if value), ("", ""))
    if not path:
        file = f"the file with SHA-256 {sha256}, published at {PUBLISHED_AT}"
        if metrics.features != "inception":
            file = needed(metrics.features)
        raise InputError(
            f"metrics.weights: not set, and neither is {WEIGHTS_VARIABLE}; give the path of {file}"
        )
    file = str(local_path(path, origin))
    if metrics.features == "inception":
        arrays = load_inception(file, sha256)
        return Extractor("inception", dict(jax.device_put(arrays)), None, metrics.input)
    checked = None if sha256 == INCEPTION_SHA256 else sha256
    arrays = load_transformer(file, metrics.features, checked)
    return Extractor(metrics.features, dict(jax.device_put(arrays)), None)


def _find(files: StudyFiles, images: ImageSet, published: Extractor | None) -> Measures | None:
    """Read the measures; None if they are missing or damaged and must be made again."""
    real = files.read(REFERENCE, MAX_ARRAY_BYTES)
    data = b"" if published else files.read(EXTRACTOR, MAX_ARRAY_BYTES)
    if real is None or data is None:
        return None
    with suppress(InputError):
        statistics = decode_reference_statistics(real, files.locate(REFERENCE))
        if published:
            return Measures(published, statistics)
        extractor = decode_extractor(data, files.locate(EXTRACTOR), images.shape)
        if len(statistics.shares) == extractor.class_count:
            return Measures(extractor, statistics)
    return None


def _make(
    spec: StudySpec,
    images: ImageSet,
    files: StudyFiles,
    published: Extractor | None,
    clock: PhaseClock,
) -> None:
    with clock.phase(Phase.OTHER, "preparing the extractor"):
        data = b"" if published else _extractor(spec, images, files)
        extractor = published or decode_extractor(data, EXTRACTOR, images.shape)
    with clock.phase(Phase.OTHER, "extracting features"):
        real = _reference(extractor, images, spec.metrics.samples)
    if not published:
        files.write(EXTRACTOR, data)
    files.write(REFERENCE, real)


def _reference(extractor: Extractor, images: ImageSet, samples: int) -> bytes:
    """Return the content of a file of reference statistics: this machine's, or a new one."""
    parts = extractor.digest, extractor.convention, f"{evaluate.VERSION}", f"{samples}"
    name = "-".join(["reference", images.fingerprint, *filter(None, parts)]) + ".safetensors"

    def make() -> bytes:
        features = extractor(images.images)
        classes = extractor.classes(features)
        real = evaluate.reference_statistics(features, classes, extractor.class_count, samples)
        if images.held_out is not None:
            held_out = extractor(images.held_out)
            real = real._replace(held_out=evaluate.held_out_statistics(held_out, features, samples))
        if real.moments.trace == 0:
            raise InputError("data: all images have the same features, so FID would be meaningless")
        return encode_reference_statistics(real)

    return _cached_on_machine(name, lambda data: decode_reference_statistics(data, name), make)


def _extractor(spec: StudySpec, images: ImageSet, files: StudyFiles) -> bytes:
    """Return the content of an extractor file: this study's, a classifier of the artifact store or
    of this machine that was trained on the same images, or a new one."""
    if spec.metrics.features == "random":
        return encode_extractor(random_extractor(images.shape))
    name = f"classifier-{VERSION}-{images.fingerprint}.safetensors"
    shared = f"extractors/{name}"
    for data in (files.read(EXTRACTOR, MAX_ARRAY_BYTES), files.store.read(shared, MAX_ARRAY_BYTES)):
        if _is_sound(data, images):
            return data
    labels = images.labels
    assert labels is not None

    def make() -> bytes:
        return encode_extractor(train_classifier(images.images, labels))

    made = _cached_on_machine(name, lambda data: decode_extractor(data, name, images.shape), make)
    files.write_shared(shared, made)
    return made


def _cached_on_machine(
    name: str, decode: Callable[[bytes], object], make: Callable[[], bytes]
) -> bytes:
    """Return a file that any study on this machine made, or make it; ``decode`` refuses others."""
    cache = DirectoryStore(measures_cache())
    with suppress(TunerError):
        data = cache.read(name, MAX_ARRAY_BYTES)
        if data is not None:
            decode(data)
            return data
    made = make()
    if keep_private(measures_cache()):
        with suppress(TunerError):  # a full disk, for example: it is only a cache
            cache.write(name, made)
    return made


def _is_sound(data: bytes | None, images: ImageSet) -> TypeGuard[bytes]:
    with suppress(InputError):
        return data is not None and bool(decode_extractor(data, EXTRACTOR, images.shape))
    return False
