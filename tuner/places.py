"""Where studies and files are kept unless told otherwise, and what a machine has elsewhere."""

import os
from pathlib import Path
from typing import NamedTuple

STORAGE_VARIABLE, ARTIFACTS_VARIABLE = "TUNER_STORAGE", "TUNER_ARTIFACTS"
PASSWORD_FILE_VARIABLE = "TUNER_PASSWORD_FILE"  # a file that holds the database's password
IMAGES_VARIABLE = "TUNER_IMAGE_CACHE"  # the folder for decoded images
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


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tuner"
