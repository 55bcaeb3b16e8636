"""Arrays as bytes and back: safetensors, no pickle, with a checksum; and what is kept so."""

import hashlib
import json
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from tuner.errors import InputError
from tuner.gan.sampling import Generator
from tuner.gan.state import abstract_generator
from tuner.metrics.features import Extractor
from tuner.metrics.frechet import Reference
from tuner.metrics.suite import RealSide
from tuner.run.files import StudyFiles
from tuner.trial import Program

Arrays = dict[str, NDArray[Any]]
About = dict[str, Any]

_CHECKSUM = "sha256"


def encode(arrays: Arrays, about: About) -> bytes:
    """One safetensors file of ``arrays`` and the JSON values ``about`` them."""
    words = {key: json.dumps(value) for key, value in about.items()}
    words[_CHECKSUM] = json.dumps(_checksum(arrays, words))
    data = save({name: np.asarray(x, order="C") for name, x in arrays.items()}, words)
    return _in_order(data)


def _in_order(data: bytes) -> bytes:
    """The same file with its header's keys sorted: safetensors writes metadata in an order that
    changes from run to run, and equal contents are to be equal files."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays are aligned
    return len(text).to_bytes(8, "little") + text + data[end:]


def decode(data: bytes, origin: str) -> tuple[Arrays, About]:
    """What ``encode`` made; InputError, which names the ``origin``, for anything damaged."""
    try:
        arrays: Arrays = load(data)
        length = int.from_bytes(data[:8], "little")
        words = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        about = {key: json.loads(value) for key, value in words.items()}
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        text = f"{origin}: found a damaged file, expected safetensors ({error})"
        raise InputError(text) from None
    found = about.pop(_CHECKSUM, None)
    words.pop(_CHECKSUM, None)
    if found != _checksum(arrays, words):
        raise InputError(f"{origin}: found a damaged file: its checksum does not agree")
    return arrays, about


def _checksum(arrays: Arrays, words: dict[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(words, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def pack(tree: Any) -> Arrays:
    """A pytree's leaves as host arrays, named by their paths."""
    leaves = jax.tree_util.tree_flatten_with_path(jax.device_get(tree))[0]
    return {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in leaves}


def unpack(like: Any, arrays: Arrays, origin: str) -> Any:
    """The pytree of ``like``'s structure, shapes and types; InputError where ``arrays`` differ."""
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    leaves = []
    for path, leaf in paths:
        name = jax.tree_util.keystr(path)
        array = arrays.get(name)
        found = None if array is None else f"{array.dtype} {array.shape}"
        expected = f"{leaf.dtype} {leaf.shape}"
        if found != expected:
            raise InputError(f"{origin}: found {name} {found}, expected {expected}")
        leaves.append(array)
    return jax.tree_util.tree_unflatten(structure, leaves)


def encode_generator(program: Program, packed: Arrays, about: About) -> bytes:
    """A packed generator, with all that is needed to use it without a database."""
    return encode(packed, {"program": program._asdict(), **about})


def load_generator(files: StudyFiles, name: str) -> tuple[Program, Generator, About]:
    """A generator that was kept, its program, and what was said about it; InputError where it is
    missing or damaged."""
    origin = files.locate(name)
    data = files.read(name)
    if data is None:
        raise InputError(f"{origin}: found no such file, expected a generator kept by tuner")
    arrays, about = decode(data, origin)
    if "program" not in about:
        raise InputError(f"{origin}: found no program, expected a generator kept by tuner")
    fields = about.pop("program")
    if set(fields) != set(Program._fields):
        raise InputError(f"{origin}: found a generator kept by another version of tuner")
    values: dict[str, Any] = {  # JSON has no tuples
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    program = Program(**values)
    return program, unpack(Generator(*abstract_generator(program)), arrays, origin), about


def encode_extractor(extractor: Extractor) -> bytes:
    """An extractor's weights and what is known of it."""
    about = {"kind": extractor.kind, "accuracy": extractor.accuracy}
    return encode({k: np.asarray(v) for k, v in extractor.weights.items()}, about)


def decode_extractor(data: bytes, origin: str) -> Extractor:
    """What ``encode_extractor`` made; InputError for anything else."""
    arrays, about = decode(data, origin)
    if not {"kind", "accuracy"} <= set(about):
        raise InputError(f"{origin}: found no extractor, expected one kept by tuner")
    return Extractor(about["kind"], dict(jax.device_put(arrays)), about["accuracy"])


def encode_real_side(real: RealSide) -> bytes:
    """The real images as the metrics see them."""
    arrays: Arrays = {"mean": real.moments.mean, "root": real.moments.root}
    arrays |= {"features": real.features, "radii": real.radii, "shares": real.shares}
    return encode(arrays, {"trace": real.moments.trace})


def decode_real_side(data: bytes, origin: str) -> RealSide:
    """What ``encode_real_side`` made; InputError for anything else."""
    arrays, about = decode(data, origin)
    if set(arrays) != {"mean", "root", *RealSide._fields[1:]} or "trace" not in about:
        raise InputError(f"{origin}: found no statistics, expected some kept by tuner")
    moments = Reference(arrays.pop("mean"), arrays.pop("root"), about["trace"])
    return RealSide(moments, **arrays)
