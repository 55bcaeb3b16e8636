"""Files with the weights of DINOv2 and CLIP, as transformers publishes them."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from tuner.errors import InputError
from tuner.files.folders import read_file
from tuner.metrics.vit import ARCHITECTURES
from tuner.metrics.vit_weights import from_published

# The repositories of the published files on the Hugging Face hub.
REPOSITORIES = {
    "dinov2": "facebook/dinov2-large",
    "dinov2-base": "facebook/dinov2-base",
    "clip": "openai/clip-vit-large-patch14-336",
}
MAX_BYTES = 8 * 2**30


def load_transformer(
    path: str, kind: str, sha256: str | None = None
) -> dict[str, NDArray[np.float32]]:
    """Load the weights of ``kind`` from a safetensors file, by their names in Flax.

    InputError if the file is missing, has another hash than ``sha256``, is damaged, or holds
    another network.
    """
    try:
        data = read_file(Path(path), MAX_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: can't be read: {reason}; use {needed(kind)}") from None
    if sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise InputError(f"{path}: found SHA-256 {found}, expected {sha256}")
    try:
        arrays = load(data)
    # safetensors raises these for damaged files and for types that NumPy lacks.
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as bad:
        reason = " ".join(f"{bad}"[:200].split())
        raise InputError(f"{path}: not a safetensors file of float32 ({reason})") from None
    return from_published(arrays, ARCHITECTURES[kind], path)


def needed(kind: str) -> str:
    """The file that is needed, for messages."""
    return f"model.safetensors of {REPOSITORIES[kind]} on the Hugging Face hub"
