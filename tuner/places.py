"""Where studies and files are kept unless told otherwise, and what a machine has elsewhere."""

import os
from pathlib import Path
from typing import NamedTuple

from tuner.errors import InputError

STORAGE_VARIABLE, ARTIFACTS_VARIABLE = "TUNER_STORAGE", "TUNER_ARTIFACTS"
PASSWORD_FILE_VARIABLE = "TUNER_PASSWORD_FILE"  # a file that holds the database's password
IMAGES_VARIABLE = "TUNER_IMAGE_CACHE"  # the folder for decoded images
IMAGE_MEMORY_VARIABLE = "TUNER_IMAGE_MEMORY"  # bytes that images may take on a device
MACHINE_VARIABLE = "TUNER_MACHINE"  # what this machine is called
METRICS_HOST_VARIABLE, METRICS_PORT_VARIABLE = "TUNER_METRICS_HOST", "TUNER_METRICS_PORT"

METRICS_HOST = "127.0.0.1"
STORAGE, ARTIFACTS = "sqlite:///tuner-data/studies.db", "tuner-data/artifacts"


class Local(NamedTuple):
    """What is a machine's own business, and no part of a study."""

    data: str | None = None  # where it has the images, if elsewhere
    weights: str | None = None  # where it has Inception's weights, if elsewhere
    allow: tuple[str, ...] = ()  # packages whose networks it imports


NOWHERE_ELSE = Local()


def default_storage() -> str:
    """A SQLAlchemy URL."""
    return os.environ.get(STORAGE_VARIABLE, STORAGE)


def default_artifacts() -> str:
    """A folder, or the URL of one."""
    return os.environ.get(ARTIFACTS_VARIABLE, ARTIFACTS)


def compiled_programs() -> Path:
    """Where this machine keeps compiled programs: never shared, as they are code that runs."""
    return _cache() / "compiled"


def decoded_images() -> Path:
    """Where this machine keeps images that it has decoded."""
    named = os.environ.get(IMAGES_VARIABLE)
    return Path(named).expanduser() if named else _cache() / "images"


def image_memory() -> float | None:
    """Bytes that images may take on a device, where this machine says so; InputError where it says
    something else."""
    given = os.environ.get(IMAGE_MEMORY_VARIABLE)
    if not given:
        return None
    try:
        found = float(given)
    except ValueError:
        found = -1.0
    if not found >= 0:  # nan is not
        raise InputError(f"{IMAGE_MEMORY_VARIABLE}: found {given!r}, expected a number of bytes")
    return found


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tuner"
