"""Files with the Inception network's weights: the published PyTorch file, or a converted one."""

import hashlib
import io
import pickle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tuner.errors import InputError
from tuner.files.folders import read_file
from tuner.files.serialization import decode, encode
from tuner.hints import require
from tuner.metrics.inception import check_weights, from_torch
from tuner.spec.metrics import INCEPTION_SHA256

# Converted from TensorFlow's network of 2015-12-05 by the authors of pytorch-fid; torch-fidelity
# publishes the same bytes.
PUBLISHED_NAME = "pt_inception-2015-12-05-6726825d.pth"
PUBLISHED_AT = (
    f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{PUBLISHED_NAME}"
)
PUBLISHED_SIZE = 95_628_359  # bytes

Weights = dict[str, NDArray[np.float32]]


def load_inception(path: str, sha256: str = INCEPTION_SHA256) -> Weights:
    """Load the weights by name, with HWIO kernels, from the PyTorch file or a converted one.

    ``sha256`` is the hash of the PyTorch file; a converted file records the hash of its source.
    InputError if the file is missing, damaged or a different one, or if it is the PyTorch file and
    PyTorch is not installed.
    """
    data = _read(Path(path))
    # A safetensors file starts with the length of its header (8 bytes), which is JSON.
    if data[8:9] != b"{":
        return _from_published(data, path, sha256)
    arrays, about = decode(data, path)
    if about.get("kind") != "inception":
        raise InputError(f"{path}: this file contains no Inception weights")
    if about.get("source_sha256") != sha256:
        raise InputError(
            f"{path}: found weights converted from a file with SHA-256 "
            f"{about.get('source_sha256')}, expected one with {sha256}"
        )
    check_weights(arrays, path)
    return arrays


def convert_inception(source: Path, sha256: str = INCEPTION_SHA256) -> bytes:
    """Convert the PyTorch file with this hash to a safetensors file, which needs no PyTorch.

    InputError as in ``load_inception``.
    """
    weights = _from_published(_read(source), str(source), sha256)
    return encode(weights, {"kind": "inception", "source_sha256": sha256})


def _read(path: Path) -> bytes:
    try:
        return read_file(path, 4 * PUBLISHED_SIZE)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path}: can't be read: {reason}; give the Inception weights: the output of tuner "
            f"convert-inception, or {PUBLISHED_NAME} with SHA-256 {INCEPTION_SHA256}, published at "
            f"{PUBLISHED_AT}"
        ) from None


def _from_published(data: bytes, origin: str, sha256: str) -> Weights:
    """Read the PyTorch file; nothing is parsed before its hash is checked."""
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        expected = f"SHA-256 {sha256}"
        if sha256 == INCEPTION_SHA256:
            expected = f"{PUBLISHED_SIZE:,} bytes with {expected}, as published at {PUBLISHED_AT}"
        raise InputError(
            f"{origin}: found {len(data):,} bytes with SHA-256 {found}, expected {expected}"
        )
    otherwise = ", or run tuner convert-inception on a machine that has PyTorch and use its output"
    torch = require("torch", "inception", f"{origin}: this file", otherwise)
    try:
        state = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
        arrays = {str(name): tensor.detach().numpy() for name, tensor in state.items()}
    # torch.load raises these for a bad file, Python for anything but a dict of tensors.
    except (
        *(pickle.UnpicklingError, RuntimeError, ValueError, LookupError, EOFError),
        *(AttributeError, TypeError),
    ) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{origin}: not weights saved by PyTorch ({reason})") from None
    return from_torch(arrays, origin)
