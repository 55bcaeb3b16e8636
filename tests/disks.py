"""Folders mounted as separate disks, where the tests may mount."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounted(folder: Path, *options: str, kind: str = "tmpfs") -> Iterator[None]:
    """Mount a file system at ``folder``, or skip the test if that is not permitted."""
    folder.mkdir()
    command = ["mount", "-t", kind, *options, kind, str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"can't mount a disk here: {error}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)
