"""Writing what a command makes to the file that a person named."""

import os
import tempfile
from pathlib import Path

from tuner.errors import InputError


def check_suffix(path: Path, expected: tuple[str, ...]) -> str:
    """The file's suffix in small letters; InputError where it is none of the ``expected``."""
    suffix = path.suffix.lower()
    if suffix not in expected:
        found = f"found {path.suffix!r}" if suffix else "found no suffix"
        raise InputError(f"--out: {path}: {found}, expected {' or '.join(expected)}")
    return suffix


def write_whole(path: Path, data: bytes) -> None:
    """Whole or not at all: a file that is there is replaced in one step. InputError where the
    folder is missing or can't be written to."""
    part = None
    try:
        handle, part = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".part", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(part, 0o666 & ~_umask())  # mkstemp's is for the owner alone
        os.replace(part, path)
    except OSError as error:
        if part is not None:
            Path(part).unlink(missing_ok=True)
        raise InputError(f"--out: {path} can't be written: {error.strerror}") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
