"""The Inception network's weights on disk: PyTorch's published file, and our copy of it."""

import hashlib
import importlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.errors import InputError
from tuner.metrics.inception import check_weights, from_torch
from tuner.run.artifacts import decode, encode
from tuner.run.folders import NAME, DirectoryStore
from tuner.spec import INCEPTION_SHA256

# Converted from TensorFlow's network of 2015-12-05 by the authors of pytorch-fid; torch-fidelity
# publishes the same bytes.
PUBLISHED_NAME = "pt_inception-2015-12-05-6726825d.pth"
PUBLISHED_AT = (
    f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{PUBLISHED_NAME}"
)
PUBLISHED_SIZE = 95_628_359  # bytes

Weights = dict[str, NDArray[np.float32]]


def load_inception(path: str, sha256: str = INCEPTION_SHA256) -> Weights:
    """The weights by name, kernels HWIO, from PyTorch's file with this hash, or from what
    ``convert_inception`` made of it; which of the two, the file's content says.

    InputError where the file is missing, damaged or another, and where PyTorch, which its own file
    needs, is not installed.
    """
    data = _read(Path(path))
    # A safetensors file begins with the length of its header, which is JSON.
    if data[8:9] == b"{":
        return _from_copy(data, path, sha256)
    return _from_published(data, path, sha256)


def convert_inception(source: Path, target: Path, sha256: str = INCEPTION_SHA256) -> str:
    """Write PyTorch's file with this hash as one that needs no PyTorch, whole or not at all;
    returns the new file's SHA-256. InputError as ``load_inception``."""
    if not NAME.fullmatch(target.name):
        raise InputError(f"{target}: found {target.name!r} as a name, expected {NAME.pattern}")
    weights = _from_published(_read(source), str(source), sha256)
    data = encode(weights, {"kind": "inception", "source_sha256": sha256})
    DirectoryStore(target.absolute().parent).write(target.name, data)
    return hashlib.sha256(data).hexdigest()


def _read(path: Path) -> bytes:
    expected = (
        f"expected the Inception weights, {PUBLISHED_NAME} with SHA-256 {INCEPTION_SHA256}, or "
        f"what tuner convert-inception made of it; published at {PUBLISHED_AT}"
    )
    try:
        if not path.is_file():  # a pipe or a device might never end
            found = "what is no file" if path.exists() else "no such file"
            raise InputError(f"{path}: found {found}, {expected}")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: can't be read: {error}; {expected}") from None


def _from_published(data: bytes, origin: str, sha256: str) -> Weights:
    """Nothing of ``data`` is parsed before its hash has been checked."""
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        published = sha256 == INCEPTION_SHA256
        size = f"{PUBLISHED_SIZE:,} bytes with " if published else ""
        where = f", as published at {PUBLISHED_AT}" if published else ""
        raise InputError(
            f"{origin}: found {len(data):,} bytes with SHA-256 {found}, "
            f"expected {size}SHA-256 {sha256}{where}"
        )
    return from_torch(_state(data, origin), origin)


def _state(data: bytes, origin: str) -> dict[str, NDArray[Any]]:
    """The arrays of a state dict that PyTorch saved, by name. Nothing but tensors is unpickled."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise InputError(
            f"{origin}: found a file of PyTorch's, which is not installed; install tuner with its "
            "extra 'inception', or run tuner convert-inception where PyTorch is and take its file"
        ) from None
    try:
        state = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
        return {str(name): tensor.detach().numpy() for name, tensor in state.items()}
    # All that PyTorch says of a file that it can't read, and Python of what is no dict of tensors.
    except (
        *(pickle.UnpicklingError, RuntimeError, ValueError, LookupError, EOFError),
        *(AttributeError, TypeError),
    ) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{origin}: found no weights that PyTorch saved ({reason})") from None


def _from_copy(data: bytes, origin: str, sha256: str) -> Weights:
    arrays, about = decode(data, origin)
    if about.get("kind") != "inception":
        raise InputError(f"{origin}: found another file of tuner's, expected Inception weights")
    if about.get("source_sha256") != sha256:
        raise InputError(
            f"{origin}: found weights made of a file with SHA-256 {about.get('source_sha256')}, "
            f"expected one with {sha256}"
        )
    check_weights(arrays, origin)
    return arrays
