"""Safetensors files with a checksum: generators, extractors, reference statistics."""

import hashlib
import json
import math
from typing import Any, Literal

import jax
import numpy as np
import pydantic
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from tuner.errors import InputError
from tuner.files.folders import MAX_ARRAY_BYTES
from tuner.files.study_files import StudyFiles
from tuner.gan.networks import GENERATORS
from tuner.gan.sampling import Generator
from tuner.gan.state import abstract_generator
from tuner.metrics.evaluate import HeldOut, ReferenceStatistics
from tuner.metrics.extractors import Extractor, abstract_weights
from tuner.metrics.fid import Reference
from tuner.spec.data import Size
from tuner.spec.kinds import Whole
from tuner.spec.trial import kind_of
from tuner.trial import Program

Arrays = dict[str, NDArray[Any]]
About = dict[str, Any]

_CHECKSUM = "sha256"
_PROGRAMS = pydantic.TypeAdapter(Program)
_SHAPES = pydantic.TypeAdapter(tuple[Size, Size, Literal[1, 3]])
_BOUNDED = (
    *("generator", "discriminator", "width", "latent_dim", "batch_size", "loss", "d_steps"),
    *("generator_optimizer", "discriminator_optimizer", "generator_norm", "discriminator_norm"),
    *("schedule", "precision"),
)
MAX_CLASSES = 100_000
FEATURES = ("features", "held_out", "training")  # arrays of reference statistics


def encode(arrays: Arrays, about: About) -> bytes:
    """Return a safetensors file of ``arrays``, with the JSON values ``about`` as metadata."""
    words = {key: json.dumps(value) for key, value in about.items()}
    words[_CHECKSUM] = json.dumps(_checksum(arrays, words))
    data = save({name: np.asarray(x, order="C") for name, x in arrays.items()}, words)
    # safetensors writes metadata in an order that varies by run. Sort the header, so that equal
    # contents give equal files.
    end = 8 + int.from_bytes(data[:8], "little")
    text = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays are aligned
    return len(text).to_bytes(8, "little") + text + data[end:]


def decode(data: bytes, origin: str) -> tuple[Arrays, About]:
    """Read the output of ``encode``; InputError, beginning with ``origin``, if it is damaged."""
    try:
        arrays: Arrays = load(data)
        length = int.from_bytes(data[:8], "little")
        words = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        about = {key: json.loads(value) for key, value in words.items()}
    except (
        *(SafetensorError, ValueError, KeyError, TypeError, AttributeError),
        *(OverflowError, MemoryError, RecursionError),
    ) as error:
        reason = " ".join(f"{error}"[:200].split())
        raise InputError(f"{origin}: damaged: not a safetensors file ({reason})") from None
    found = about.pop(_CHECKSUM, None)
    words.pop(_CHECKSUM, None)
    if found != _checksum(arrays, words):
        raise InputError(f"{origin}: damaged: its checksum does not match")
    return arrays, about


def _checksum(arrays: Arrays, words: dict[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(words, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def pack(tree: Any) -> Arrays:
    """Return the leaves of a pytree as host arrays, keyed by their paths."""
    leaves = jax.tree_util.tree_flatten_with_path(jax.device_get(tree))[0]
    return {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in leaves}


def unpack(like: Any, arrays: Arrays, origin: str) -> Any:
    """Rebuild a pytree; InputError if ``arrays`` lack a leaf of ``like``, or its shape or dtype."""
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    leaves = []
    for path, leaf in paths:
        name = jax.tree_util.keystr(path)
        array = arrays.get(name)
        expected = f"{leaf.dtype} {leaf.shape}"
        if array is None:
            raise InputError(f"{origin}: {name} is missing, expected {expected}")
        if (found := f"{array.dtype} {array.shape}") != expected:
            raise InputError(f"{origin}: found {name} {found}, expected {expected}")
        leaves.append(array)
    return jax.tree_util.tree_unflatten(structure, leaves)


def encode_generator(program: Program, packed: Arrays, about: About) -> bytes:
    """Return a packed generator as a file that can be used without a database."""
    return encode(packed, {"program": program._asdict(), **about})


def load_generator(files: StudyFiles, name: str) -> tuple[Program, Generator, About]:
    """Load a stored generator, with its program and metadata.

    InputError if it is missing, damaged, or of a network that this process has not imported.
    """
    origin = files.locate(name)
    data = files.read(name, MAX_ARRAY_BYTES)
    if data is None:
        raise InputError(f"{origin}: no such file")
    arrays, about = decode(data, origin)
    program = _program(about.pop("program", None), origin)
    try:
        like = Generator(*abstract_generator(program))
    except Exception as error:  # a custom network may raise anything
        raise InputError(
            f"{origin}: {program.generator} can't be built for the stored program: {error!r:.200}"
        ) from None
    return program, unpack(like, arrays, origin), about


def _program(fields: Any, origin: str) -> Program:
    """Validate the program in a file, within the bounds that hold for study files."""
    if not isinstance(fields, dict):
        raise InputError(f"{origin}: not a tuner generator file: it has no program")
    required = set(Program._fields) - set(Program._field_defaults)
    if not required <= set(fields) <= set(Program._fields):
        raise InputError(f"{origin}: this generator was written by another version of tuner")
    try:
        program = _PROGRAMS.validate_json(json.dumps(fields), strict=True)
        _SHAPES.validate_python(program.image_shape)
        kinds = {name: kind_of(name) for name in _BOUNDED} | {"classes": Whole(0, MAX_CLASSES)}
        for name, kind in kinds.items():
            kind.check(getattr(program, name))
    except pydantic.ValidationError as error:
        found = error.errors()[0]
        where = ".".join(map(str, found["loc"]))
        raise InputError(f"{origin}: damaged program: {where}: {found['msg']}") from None
    except ValueError as error:
        raise InputError(f"{origin}: damaged program: {name}: {error}") from None
    if program.generator not in GENERATORS:
        raise InputError(
            f"{origin}: the network {program.generator!r} is not imported; name its package with "
            "--allow"
        )
    return program


def encode_extractor(extractor: Extractor) -> bytes:
    """Return an extractor's weights and metadata as a file."""
    about = {"kind": extractor.kind, "accuracy": extractor.accuracy}
    return encode({k: np.asarray(v) for k, v in extractor.weights.items()}, about)


def decode_extractor(data: bytes, origin: str, shape: tuple[int, int, int]) -> Extractor:
    """Read an extractor for images of ``shape`` (h, w, c); InputError for any other file."""
    arrays, about = decode(data, origin)
    kind, accuracy = about.get("kind"), about.get("accuracy", "missing")
    if kind not in ("random", "classifier") or not isinstance(accuracy, float | int | None):
        raise InputError(f"{origin}: not a tuner extractor file")
    classes = arrays["dense2"].shape[-1:] if "dense2" in arrays else ()
    expected = abstract_weights(shape, *classes) if classes else {}
    fits = {name: (x.dtype, x.shape) for name, x in expected.items()}
    if {name: (x.dtype, x.shape) for name, x in arrays.items()} != fits:
        raise InputError(f"{origin}: the extractor's weights do not fit the images")
    return Extractor(kind, dict(jax.device_put(arrays)), accuracy)


def encode_reference_statistics(real: ReferenceStatistics) -> bytes:
    """Return reference statistics as a file."""
    arrays: Arrays = {"mean": real.moments.mean, "root": real.moments.root}
    arrays |= {"features": real.features, "radii": real.radii, "shares": real.shares}
    if real.held_out is not None:
        arrays |= {"held_out": real.held_out.features, "training": real.held_out.training}
    return encode(arrays, {"trace": real.moments.trace})


def decode_reference_statistics(data: bytes, origin: str) -> ReferenceStatistics:
    """Read reference statistics; InputError for any other file."""
    arrays, about = decode(data, origin)
    dims = {"mean": 1, "root": 2, "features": 2, "radii": 2, "shares": 1}
    if "held_out" in arrays:
        dims |= {"held_out": 2, "training": 2}
    if arrays.keys() != dims.keys() or "trace" not in about:
        raise InputError(f"{origin}: not a file of reference statistics")
    trace, width = about["trace"], arrays["mean"].size
    is_consistent = (
        all(arrays[name].ndim == n and arrays[name].dtype.kind == "f" for name, n in dims.items())
        and isinstance(trace, float)
        and math.isfinite(trace)
        and arrays["root"].shape == (width, width)
        and all(x.shape[1] == width for name, x in arrays.items() if name in FEATURES)
        and len(arrays["radii"]) == 2
        and arrays["radii"].shape[1] <= len(arrays["features"])
    )
    if not is_consistent:
        raise InputError(f"{origin}: damaged: the statistics are inconsistent")
    moments = Reference(arrays.pop("mean"), arrays.pop("root"), trace)
    held_out = None
    if "held_out" in arrays:
        pair = arrays.pop("held_out"), arrays.pop("training")
        held_out = HeldOut(*pair, samples=arrays["radii"].shape[1])
    return ReferenceStatistics(
        moments, arrays["features"], arrays["radii"], arrays["shares"], held_out
    )
