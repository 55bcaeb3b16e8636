"""Arrays as files: one safetensors file each, no pickle, written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from tuner.errors import InputError, TunerError
from tuner.gan.sampling import Generator
from tuner.gan.state import abstract_generator
from tuner.metrics.features import Extractor
from tuner.trial import Program

Arrays = dict[str, NDArray[Any]]


def write_arrays(path: Path, arrays: Arrays, about: dict[str, Any]) -> None:
    """Write ``arrays`` and the JSON values ``about`` them, replacing what is there in one step.

    TunerError where that fails; then nothing is left half-written.
    """
    data = save(arrays, {key: json.dumps(value) for key, value in about.items()})
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise TunerError(f"{path}: can't be written: {error.strerror}") from error


def read_arrays(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """What ``write_arrays`` wrote; InputError for a missing or damaged file."""
    try:
        with safe_open(path, framework="numpy") as file:
            about = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118 - no dict
    except FileNotFoundError:
        raise InputError(f"{path}: found no such file") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{path}: found a damaged file, expected safetensors ({error})") from None


def pack(tree: Any) -> Arrays:
    """A pytree's leaves as host arrays, named by their paths."""
    leaves = jax.tree_util.tree_flatten_with_path(jax.device_get(tree))[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def unpack(like: Any, arrays: Arrays, origin: Path) -> Any:
    """The pytree of ``like``'s structure and shapes; InputError where ``arrays`` do not fit."""
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    leaves = []
    for path, leaf in paths:
        name = jax.tree_util.keystr(path)
        found = arrays[name].shape if name in arrays else None
        if found != leaf.shape:
            raise InputError(f"{origin}: found {name} {found}, expected {leaf.shape}")
        leaves.append(arrays[name])
    return jax.tree_util.tree_unflatten(structure, leaves)


def save_generator(
    path: Path, program: Program, generator: Generator, about: dict[str, Any]
) -> None:
    """Keep a generator, with all that is needed to use it without a database."""
    write_arrays(path, pack(generator), {"program": program._asdict(), **about})


def load_generator(path: Path) -> tuple[Program, Generator, dict[str, Any]]:
    """A generator that ``save_generator`` kept, its program, and what was said about it."""
    arrays, about = read_arrays(path)
    if "program" not in about:
        raise InputError(f"{path}: found no program, expected a generator kept by tuner")
    fields = about.pop("program")
    if set(fields) != set(Program._fields):
        raise InputError(f"{path}: found a generator kept by another version of tuner")
    program = Program(**{**fields, "image_shape": tuple(fields["image_shape"])})
    return program, unpack(Generator(*abstract_generator(program)), arrays, path), about


def save_extractor(path: Path, extractor: Extractor) -> None:
    """Keep an extractor's weights and what is known of it."""
    about = {"kind": extractor.kind, "accuracy": extractor.accuracy}
    write_arrays(path, {k: np.asarray(v) for k, v in extractor.weights.items()}, about)


def load_extractor(path: Path) -> Extractor:
    """An extractor that ``save_extractor`` kept; InputError for anything else."""
    arrays, about = read_arrays(path)
    if not {"kind", "accuracy"} <= set(about):
        raise InputError(f"{path}: found no extractor, expected one kept by tuner")
    return Extractor(about["kind"], dict(jax.device_put(arrays)), about["accuracy"])
