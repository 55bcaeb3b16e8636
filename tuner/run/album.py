"""``Album``: a trial's pictures, brought to the artifact store beside the training.

Sample grids after some of the epochs, and its curves at its end. Each becomes one of Optuna's
artifacts, which the dashboard shows: a file of the store, and an attribute of the trial that names
it. The attribute goes with the epoch's report, or with the trial's end, once the file is there.
"""

import json
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import NamedTuple

from tuner.errors import StorageError, TunerError
from tuner.run.files import StudyFiles
from tuner.views.notes import CURVES

PICTURES = "pictures"  # the folder of them all
MOST_WAITING = 8  # pictures, while the store is away; the oldest is given up for a new one
LONGEST_PAUSE = 30.0  # seconds between attempts
ATTRIBUTE = "artifacts:"  # as Optuna begins the names of such attributes
_TITLE = re.compile(r"/(?:samples-epoch-(\d+)\.png|curves\.svg)$")
_ID = re.compile(r"([0-9a-f]{8})-(\d{5,})-(\d{6,})")


class Picture(NamedTuple):
    """A sample grid of an epoch, or the curves of all (epoch 0)."""

    trial: int
    epoch: int

    @property
    def title(self) -> str:
        """What it is called in the dashboard; names sort as epochs do."""
        return f"samples-epoch-{self.epoch:06d}.png" if self.epoch else "curves.svg"

    @property
    def name(self) -> str:
        """The file within the study's folder."""
        return f"{folder_of(self.trial)}/{self.title}"

    def artifact(self, token: str) -> str:
        """Optuna's name for it, in the study with this token: digits and dashes, which tell the
        dashboard where the file is."""
        return f"{token[:8]}-{self.trial:05d}-{self.epoch:06d}"

    def attribute(self, token: str) -> tuple[str, str]:
        """The attribute by which Optuna, and its dashboard, know of it."""
        mimetype = "image/png" if self.epoch else "image/svg+xml"
        meta = {
            "artifact_id": self.artifact(token),
            "filename": self.title,
            "mimetype": mimetype,
            "encoding": None,
        }
        return ATTRIBUTE + self.artifact(token), json.dumps(meta)


def folder_of(trial: int) -> str:
    """Where the pictures of a trial are."""
    return f"{PICTURES}/trial-{trial:05d}"


def picture_of(artifact: str) -> tuple[str, Picture] | None:
    """The beginning of the study's token, and the picture; None for others' artifacts."""
    found = _ID.fullmatch(artifact)
    return found and (found[1], Picture(int(found[2]), int(found[3])))


class Album:
    """One trial's pictures. Never fails the trial: a store that is away is tried again, and what
    can't be written at all is left out; either is announced once."""

    def __init__(
        self, files: StudyFiles, token: str, trial: int, announce: Callable[[str], None]
    ) -> None:
        """``token`` is the study's."""
        self._files, self._token, self._trial, self._announce = files, token, trial, announce
        self._pool = ThreadPoolExecutor(1, "pictures")
        self._waiting: dict[Picture, Future[bool]] = {}
        self._there: list[Picture] = []
        self._told = 0  # of those, by ``take``
        self._ended = threading.Event()
        self._said = False

    def remember(self) -> None:
        """Learn what an earlier owner of the trial left, who may not have told of it."""
        with suppress(TunerError):
            for name in self._files.names(folder_of(self._trial)):
                found = _TITLE.search(name)
                if found:
                    self._there.append(Picture(self._trial, int(found[1] or CURVES)))

    def add(self, epoch: int, make: Callable[[], bytes]) -> None:
        """Have a picture made and written soon, unless it is there; ``make`` runs on another
        thread."""
        picture = Picture(self._trial, epoch)
        if picture in self._there or picture in self._waiting:
            return
        if len(self._waiting) >= MOST_WAITING:
            # The very oldest may be on its way, and can't be called back.
            late = next((p for p, future in self._waiting.items() if future.cancel()), None)
            self._waiting = {p: f for p, f in self._waiting.items() if p != late}
        self._waiting[picture] = self._pool.submit(self._write, picture, make)

    def take(self, seconds: float) -> dict[str, str]:
        """Attributes that tell of the pictures that came to be there since the last time; waits
        for those on their way, for ``seconds`` at most."""
        wait(self._waiting.values(), timeout=seconds)
        for picture, future in list(self._waiting.items()):
            if not future.done():
                continue
            del self._waiting[picture]
            if (bug := future.exception()) is not None:
                self._say(TunerError(f"{picture.title} can't be made: {bug!r}"), "it is left out")
            elif future.result():
                self._there.append(picture)
        new, self._told = self._there[self._told :], len(self._there)
        return dict(picture.attribute(self._token) for picture in new)

    def artifacts(self) -> dict[int, str]:
        """Optuna's names for what is there, by epoch."""
        return {picture.epoch: picture.artifact(self._token) for picture in self._there}

    def close(self) -> None:
        """Stop trying."""
        self._ended.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _write(self, picture: Picture, make: Callable[[], bytes]) -> bool:
        """Whether it could be written before the end."""
        pause = 0.25
        while not self._ended.is_set():
            try:
                self._files.write(picture.name, make())
            except TunerError as error:
                passing = isinstance(error, StorageError) and error.transient
                self._say(error, "the pictures are tried again" if passing else "pictures are lost")
                if not passing:
                    return False
                self._ended.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                self._said = False
                return True
        return False

    def _say(self, error: TunerError, consequence: str) -> None:
        if not self._said:
            self._announce(f"{error}; training goes on, {consequence}")
        self._said = True
