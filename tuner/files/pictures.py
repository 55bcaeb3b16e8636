"""``PictureUploader``: uploads a trial's pictures to the artifact store while it trains.

Pictures are sample grids of some epochs, and the curves of the whole trial. Each becomes an Optuna
artifact, which the dashboard shows: a file in the store, and an attribute of the trial that names
the file. The attribute is stored once the file exists, with an epoch's report or the trial's end.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from tuner.errors import TunerError
from tuner.files.background import BackgroundWriter
from tuner.files.study_files import StudyFiles

CURVES = 0  # stands for the epoch in the picture of the curves
PICTURES = "pictures"  # the folder with all trials' pictures
REAL_IMAGES = f"{PICTURES}/real.png"  # the file of a grid of real images
MAX_WAITING = 7  # pictures in addition to the one being written; the oldest is dropped
ATTRIBUTE = "artifacts:"  # Optuna's prefix for the attributes of artifacts
_TITLE = re.compile(r"/(?:samples-epoch-(\d+)\.png|curves\.svg)$")
_ID = re.compile(r"([0-9a-f]{8})-(\d{5,})-(\d{6,})")


class Picture(NamedTuple):
    """A sample grid of an epoch, or the curves of all epochs (epoch 0)."""

    trial: int
    epoch: int

    @property
    def title(self) -> str:
        """The name in the dashboard; names sort by epoch."""
        return f"samples-epoch-{self.epoch:06d}.png" if self.epoch else "curves.svg"

    @property
    def name(self) -> str:
        """The file within the study's folder."""
        return f"{folder_of(self.trial)}/{self.title}"

    def artifact(self, token: str) -> str:
        """The artifact id in the study with this token.

        Hexadecimal digits and dashes, from which ``picture_of`` finds the file for the dashboard.
        """
        return f"{token[:8]}-{self.trial:05d}-{self.epoch:06d}"

    def attribute(self, token: str) -> tuple[str, str]:
        """The attribute that makes the picture an artifact of the trial in Optuna."""
        mimetype = "image/png" if self.epoch else "image/svg+xml"
        meta = {
            "artifact_id": self.artifact(token),
            "filename": self.title,
            "mimetype": mimetype,
            "encoding": None,
        }
        return ATTRIBUTE + self.artifact(token), json.dumps(meta)


def folder_of(trial: int) -> str:
    """The folder with the pictures of a trial."""
    return f"{PICTURES}/trial-{trial:05d}"


def neighbours_of(trial: int) -> str:
    """The file of strips of a trial's samples with their nearest training images."""
    return f"{folder_of(trial)}/neighbours.png"


def picture_of(artifact: str) -> tuple[str, Picture] | None:
    """Parse an artifact id: the start of the study's token, and the picture.

    None for an artifact that tuner did not make.
    """
    found = _ID.fullmatch(artifact)
    return found and (found[1], Picture(int(found[2]), int(found[3])))


def sample_grids(files: StudyFiles, trial: int) -> Iterator[tuple[int, bytes]]:
    """The stored sample grids of a trial: epochs and PNG files. StorageError if the store is
    unavailable."""
    for epoch in grid_epochs(files, trial):
        if (data := files.read(Picture(trial, epoch).name)) is not None:
            yield epoch, data


def grid_epochs(files: StudyFiles, trial: int) -> list[int]:
    """The epochs whose sample grids are stored. StorageError if the store is unavailable."""
    found = map(_TITLE.search, files.names(folder_of(trial)))
    return sorted(int(match[1]) for match in found if match and match[1])


class PictureUploader:
    """Makes and uploads the pictures of one trial in the background.

    A failure never fails the trial: uploads are retried while the store is unavailable, and a
    picture that can't be made or written is left out.
    """

    def __init__(
        self, files: StudyFiles, token: str, trial: int, announce: Callable[[str], None]
    ) -> None:
        """``token`` is the study's."""
        self._files, self._token, self._trial = files, token, trial
        self._uploaded: list[Picture] = []
        self._taken = 0  # number of them that ``take`` has returned
        self._writer = BackgroundWriter(
            files, "the pictures", announce, self._add_uploaded, capacity=MAX_WAITING, optional=True
        )

    def remember(self) -> None:
        """Find the pictures of earlier owners, which may not have stored their attributes."""
        with suppress(TunerError):
            for name in self._files.names(folder_of(self._trial)):
                self._add_uploaded(name)

    def add(self, epoch: int, make: Callable[[], bytes]) -> None:
        """Make and upload a picture soon, once; ``make`` runs on another thread."""
        picture = Picture(self._trial, epoch)
        if picture not in self._uploaded and picture.name not in self._writer:
            self._writer.submit(picture.name, make)

    def take(self, seconds: float) -> dict[str, str]:
        """Return attributes for the pictures uploaded since the last call.

        Waits up to ``seconds`` for uploads in progress.
        """
        self._writer.flush(seconds)
        new = self._uploaded[self._taken :]
        self._taken += len(new)
        return dict(picture.attribute(self._token) for picture in new)

    def artifacts(self) -> dict[int, str]:
        """Artifact ids of the uploaded pictures, by epoch."""
        return {picture.epoch: picture.artifact(self._token) for picture in self._uploaded}

    def close(self) -> None:
        """Stop uploading."""
        self._writer.close()

    def _add_uploaded(self, name: str) -> None:
        if found := _TITLE.search(name):
            self._uploaded.append(Picture(self._trial, int(found[1] or CURVES)))
