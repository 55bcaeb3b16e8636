"""Paths named by the user, and the files there; URLs, which may contain a password, are refused."""

import errno
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from tuner.errors import InputError

# A URL, the user part of one, mistyped delimiters, or a driver's key=value list.
_CREDENTIALS = r"(?::|@|//){any}*@|(?:passw\w*|pwd|secret\w*|access_?key\w*)\s*="
_NOT_A_PATH = re.compile(":/|" + _CREDENTIALS.format(any="."), re.IGNORECASE | re.DOTALL)
_NOT_PROSE = re.compile(_CREDENTIALS.format(any=r"\S"), re.IGNORECASE)
REFUSAL = "this looks like a URL (not shown, as it may contain a password)"
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def looks_like_url(text: str, *, prose: bool = False) -> bool:
    """Whether ``text`` may contain a password; in ``prose``, a URL without one is allowed.

    Such text is refused and not shown. It can't be masked: in text that does not parse, any part
    may be the password.
    """
    while (plain := unquote(text)) != text:  # percent escapes may be nested
        text = plain
    return bool((_NOT_PROSE if prose else _NOT_A_PATH).search(text))


def local_path(text: str | Path, what: str) -> Path:
    """The path with ``~`` expanded; ``what`` names the option, variable or key in errors.

    InputError for text that can't be a path, and for a URL, which the message does not show.
    """
    if looks_like_url(str(text)):
        raise InputError(f"{what}: expected a path, but {REFUSAL}")
    if "\0" in str(text):
        raise InputError(f"{what}: a path can't contain a NUL character")
    try:
        path = Path(text).expanduser()
        os.fsencode(path)
        return path
    except UnicodeEncodeError:
        codec = sys.getfilesystemencoding()
        raise InputError(
            f"{what}: this locale's encoding of paths, {codec}, lacks some of the characters; "
            "set PYTHONUTF8=1 to use UTF-8"
        ) from None
    except RuntimeError:
        raise InputError(f"{what}: ~ can't be expanded: the user has no home folder") from None


@contextmanager
def open_file(path: str | Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading bytes; OSError for anything else.

    A pipe or a device is not even opened: reading might never end, and opening has side effects.
    """
    check_file(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        check_file(path, descriptor)  # it may have been replaced in between
        yield file


def check_file(path: str | Path, descriptor: int | None = None) -> None:
    """Raise OSError unless ``path``, or what was opened there, is a regular file."""
    kind = stat.S_IFMT(os.stat(path if descriptor is None else descriptor).st_mode)
    if kind != stat.S_IFREG:
        what = _KINDS.get(kind, "a device")
        raise OSError(errno.EINVAL, f"{what}, not a file", str(path))
