"""Default locations, environment variables, and options that belong to one machine."""

import atexit
import functools
import os
import platform
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tuner.errors import InputError
from tuner.paths import REFUSAL, local_path, looks_like_url

STORAGE_VARIABLE, ARTIFACTS_VARIABLE = "TUNER_STORAGE", "TUNER_ARTIFACTS"
PASSWORD_FILE_VARIABLE = "TUNER_PASSWORD_FILE"  # a file that contains the database password
IMAGES_VARIABLE = "TUNER_IMAGE_CACHE"  # the folder for decoded images
IMAGE_MEMORY_VARIABLE = "TUNER_IMAGE_MEMORY"  # bytes of images allowed on a device
COMPILE_AHEAD_VARIABLE = "TUNER_COMPILE_AHEAD"  # 1 or 0
TRAIN_AHEAD_VARIABLE = "TUNER_TRAIN_AHEAD"  # 1 or 0
MACHINE_VARIABLE = "TUNER_MACHINE"  # name of this machine
METRICS_HOST_VARIABLE, METRICS_PORT_VARIABLE = "TUNER_METRICS_HOST", "TUNER_METRICS_PORT"
TENSORBOARD_VARIABLE = "TUNER_TENSORBOARD"  # the folder for TensorBoard's event files
NOTIFY_VARIABLE = "TUNER_NOTIFY_URLS"  # apprise URLs that notifications are sent to
# Set to 1 in a job that may restart its worker; the job then sends the notification that no worker
# is left.
RESTARTS_VARIABLE = "TUNER_JOB_RESTARTS"

METRICS_HOST, TENSORBOARD = "127.0.0.1", "runs"
STORAGE, ARTIFACTS = "sqlite:///tuner-data/studies.db", "tuner-data/artifacts"


class MachineOptions(NamedTuple):
    """Options that belong to one machine rather than to a study."""

    data: str | None = None  # path of the images, if it differs from the study's
    weights: str | None = None  # path of a published network's weights, if it differs
    allow: tuple[str, ...] = ()  # packages that custom networks and metrics may be imported from


DEFAULT_OPTIONS = MachineOptions()


def variable(name: str) -> str | None:
    """An environment variable; None if unset or empty, as compose files leave optional ones.

    InputError for a URL in a variable that must not hold one.
    """
    found = os.environ.get(name)
    if found and name not in (STORAGE_VARIABLE, ARTIFACTS_VARIABLE) and looks_like_url(found):
        raise InputError(
            f"{name}: {REFUSAL}; only {STORAGE_VARIABLE} and {ARTIFACTS_VARIABLE} take one"
        )
    return found or None


def default_storage() -> str:
    """Default URL of the study database."""
    return variable(STORAGE_VARIABLE) or STORAGE


def default_artifacts() -> str:
    """Default folder or URL of the artifact store."""
    return variable(ARTIFACTS_VARIABLE) or ARTIFACTS


def program_cache() -> Path:
    """Folder of compiled programs on this machine. Never shared: they are executable code."""
    return _cache() / "compiled"


def measures_cache() -> Path:
    """Folder of classifiers and reference statistics that were made on this machine."""
    return _cache() / "measures"


def image_cache() -> Path:
    """Folder of decoded images on this machine."""
    named = variable(IMAGES_VARIABLE)
    return local_path(named, IMAGES_VARIABLE) if named else _cache() / "images"


def tensorboard_folder() -> Path:
    """Folder of TensorBoard's event files on this machine. InputError if it can't be a folder."""
    path = local_path(variable(TENSORBOARD_VARIABLE) or TENSORBOARD, TENSORBOARD_VARIABLE)
    return checked_folder(path, TENSORBOARD_VARIABLE)


def checked_folder(path: Path, option: str) -> Path:
    """The path of a folder that may not exist yet; InputError if a part of it is not a folder.

    ``option`` names the option or variable that the path comes from.
    """
    whole = path.absolute()
    existing = next(part for part in (whole, *whole.parents) if os.path.exists(part))
    if not existing.is_dir():
        raise InputError(f"{option}: {existing} is not a folder")
    return path


def image_memory() -> float | None:
    """Bytes of images allowed on a device; None if unset. InputError unless it is a number."""
    given = variable(IMAGE_MEMORY_VARIABLE)
    if given is None:
        return None
    with suppress(ValueError):
        if (found := float(given)) >= 0:
            return found
    raise InputError(f"{IMAGE_MEMORY_VARIABLE}: found {given!r}, expected a number of bytes")


def compile_ahead() -> bool | None:
    """Whether programs are compiled before trials need them; None if unset."""
    return _switch(COMPILE_AHEAD_VARIABLE)


def train_ahead() -> bool | None:
    """Whether the next epoch begins while scores of the last one are computed; None if unset."""
    return _switch(TRAIN_AHEAD_VARIABLE)


def _switch(name: str) -> bool | None:
    given = variable(name)
    if given not in (None, "0", "1"):
        raise InputError(f"{name}: found {given!r}, expected 0 or 1")
    return None if given is None else given == "1"


def _cache() -> Path:
    named = Path(variable("XDG_CACHE_HOME") or "")
    try:
        # The XDG standard says to ignore relative paths.
        return (named if named.is_absolute() else Path("~/.cache").expanduser()) / "tuner"
    except RuntimeError:  # a user without a home folder
        return _temporary_cache()


@functools.cache
def _temporary_cache() -> Path:
    """A folder that this process removes when it exits."""
    folder = tempfile.mkdtemp(prefix="tuner-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def slurm_job() -> str | None:
    """Id of the Slurm job that this process runs in, as ``squeue`` shows it; None outside Slurm."""
    array, task = variable("SLURM_ARRAY_JOB_ID"), variable("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else variable("SLURM_JOB_ID")


class Place(NamedTuple):
    """Location of a database or a folder; ``inode`` is 0 if it is not on a file system."""

    host: str
    path: str
    device: int = 0
    inode: int = 0

    def is_same(self, other: "Place") -> bool:
        """Whether both are the same file.

        On one machine, an equal path or inode is enough: the file may have moved. Between machines,
        which may mount a file system at different paths, only the inode counts.
        """
        if self.host == other.host and self.path == other.path:
            return True
        same_device = self.host != other.host or self.device == other.device
        return same_device and self.inode == other.inode != 0


def place_of_file(path: str | Path) -> Place:
    """Location of a file or folder on this machine; OSError if it can't be read."""
    found = os.stat(path)
    host = variable(MACHINE_VARIABLE) or platform.node()
    return Place(host, os.path.realpath(path), found.st_dev, found.st_ino)
