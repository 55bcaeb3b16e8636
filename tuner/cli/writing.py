"""Output files and folders named on the command line: written whole, or not at all."""

import errno
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from tuner.cli.app import err, out
from tuner.errors import InputError
from tuner.paths import local_path


def check_target(path: Path, suffixes: tuple[str, ...] = (), *, option: str = "--out") -> Path:
    """Expand ``~`` and check a target before the work is done.

    InputError if the suffix is not allowed, the folder is missing, or the path is a folder. A
    device or a pipe needs a suffix only to choose between several formats.
    """
    path = local_path(path, option)
    suffix = path.suffix.lower()
    if suffixes and suffix not in suffixes and (len(suffixes) > 1 or _is_file(path)):
        found = f"found {path.suffix!r}" if path.suffix else "found no suffix"
        raise InputError(f"{option}: {path}: {found}, expected {' or '.join(suffixes)}")
    if path.parent.exists() and not path.is_dir():
        return path
    problem = errno.EISDIR if path.is_dir() else errno.ENOENT
    raise InputError(f"{option}: {path} can't be written: {os.strerror(problem)}")


def default_target(name: str) -> Path:
    """A file in the working folder, named after a study with any characters in its name."""
    return Path(re.sub(r"[^\w.-]+", "-", name).lstrip(".-") or "study")


def write_output(
    path: Path, data: bytes, what: str | None = None, *, option: str = "--out"
) -> None:
    """Write a file that ``check_target`` has checked; print ``what`` it holds, and its path.

    A file is replaced in one step, so that a failure leaves the old one unchanged; a device or a
    pipe is written to directly. InputError if it can't be written.
    """
    is_file = _is_file(path)
    try:
        if is_file:
            _replace(Path(os.path.realpath(path)), data)
        elif path.exists() and os.path.samestat(path.stat(), os.fstat(1)):  # standard output
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
        else:
            path.write_bytes(data)
    except OSError as error:
        raise InputError(f"{option}: {path} can't be written: {error.strerror}") from None
    if what is not None:
        (out if is_file else err).print(f"{what}: {path}", soft_wrap=True)


def check_folder(path: Path, *, force: Collection[str] = (), option: str = "--to") -> Path:
    """Expand ``~`` and check an output folder before the work starts.

    InputError unless the folder can be created, is empty, or holds only files named in ``force``.
    """
    path = local_path(path, option)
    problem = None
    if not path.parent.is_dir():
        problem = os.strerror(errno.ENOENT)
    elif path.is_symlink() or (path.exists() and not path.is_dir()):
        problem = "it exists and is not a folder"
    elif path.exists() and (others := sorted({*os.listdir(path)} - {*force})):
        problem = f"the folder is not empty: it has {', '.join(others[:3])}"
    if problem is not None:
        raise InputError(f"{option}: {path} can't be written: {problem}")
    return path


def write_folder(path: Path, files: Mapping[str, bytes], *, option: str = "--to") -> None:
    """Write files to a folder that ``check_folder`` has checked, replacing its contents.

    The new folder is written next to the old one and then renamed, so a failure keeps the old one.
    """
    path = path.absolute()
    part, old = (path.with_name(f".{secrets.token_hex(8)}.{kind}") for kind in ("part", "old"))
    try:
        part.mkdir()
        for name, data in files.items():
            with (part / name).open("xb") as file:
                file.write(data)
        if path.exists():
            path.rename(old)
        part.rename(path)
    except OSError as error:
        if old.exists() and not path.exists():
            old.rename(path)
        raise InputError(f"{option}: {path} can't be written: {error.strerror}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _is_file(path: Path) -> bool:
    """Whether the path is a regular file or can become one.

    /dev/stdout is not, even if standard output is redirected to a file.
    """
    if path.absolute().parts[1:2] in (("dev",), ("proc",)):
        return False
    return not path.exists() or stat.S_ISREG(path.stat().st_mode)


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            file.write(data)
            if path.exists():
                os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
