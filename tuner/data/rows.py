"""Images as they are decoded, written to a .npy file one batch after another."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tuner.data.images import AT_ONCE, Images

HEADER = 128  # bytes: what NumPy writes for four dimensions, with room for the first to grow


class Rows:
    """Grey until the first image in colour comes, unless ``channels`` says which.

    In memory where there is no file, or from when it can't be written to: ``give_up`` is told why.
    """

    def __init__(
        self, path: Path | None, size: int, channels: int | None, give_up: Callable[[OSError], None]
    ) -> None:
        self._size, self._channels, self._give_up = size, channels or 1, give_up
        self._path, self._file = path, None if path is None else path.open("w+b", buffering=0)
        self._kept: list[Images] = []
        self.count = 0

    def append(self, images: Images) -> None:
        """uint8 (k, size, size, 1 or 3)."""
        if images.shape[3] > self._channels and self.count:
            self._widen()
        self._channels = max(self._channels, images.shape[3])
        images = repeated(images, self._channels)
        if self._file is not None:
            try:
                self._write(self._file, images, self.count)
            except OSError as error:
                self._into_memory(error)
        if self._file is None:
            self._kept.append(images)
        self.count += len(images)

    def finish(self) -> Images:
        """All of them; as a file mapped into memory where there is one."""
        if self._file is not None and self._path is not None:
            try:
                self._write_header(self._file)
                self._file.close()
                found: Images = np.load(self._path, mmap_mode="r")
                return found
            except OSError as error:
                self._file = self._path.open("r+b", buffering=0)
                self._into_memory(error)
        none = np.empty((0, self._size, self._size, self._channels), np.uint8)
        return np.concatenate(self._kept) if self._kept else none

    def close(self) -> None:
        """Let go of the file; it is not removed."""
        if self._file is not None:
            self._file.close()

    @property
    def in_memory(self) -> bool:
        return self._file is None

    def _row(self, channels: int) -> int:
        return self._size * self._size * channels

    def _write(self, file: io.FileIO, images: Images, place: int) -> None:
        file.seek(HEADER + place * self._row(images.shape[3]))
        left = np.ascontiguousarray(images).data.cast("B")
        while left:
            left = left[file.write(left) or 0 :]

    def _write_header(self, file: io.FileIO) -> None:
        shape = (self.count, self._size, self._size, self._channels)
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        assert len(header.getvalue()) == HEADER
        file.seek(0)
        file.write(header.getvalue())
        os.fsync(file.fileno())

    def _read(self, start: int, channels: int) -> Images:
        """Up to ``AT_ONCE`` of those written as yet, from ``start``."""
        assert self._file is not None
        count = min(AT_ONCE, self.count - start)
        found = np.empty((count, self._size, self._size, channels), np.uint8)
        self._file.seek(HEADER + start * self._row(channels))
        left = found.data.cast("B")
        while left:
            read = self._file.readinto(left) or 0
            if not read:
                raise OSError(f"{self._path}: found fewer bytes than were written")
            left = left[read:]
        return found

    def _into_memory(self, error: OSError) -> None:
        """Go on without the file, where the disk is full, say; what it holds is kept."""
        self._give_up(error)
        assert self._file is not None
        self._kept = [self._read(start, self._channels) for start in range(0, self.count, AT_ONCE)]
        self._file.close()
        self._file = None

    def _widen(self) -> None:
        """Repeat the grey ones that there are into colours, in a file that replaces the first."""
        if self._file is not None and self._path is not None:
            path = self._path.with_suffix(".wide")
            try:
                with path.open("xb", buffering=0) as wide:
                    for start in range(0, self.count, AT_ONCE):
                        self._write(wide, repeated(self._read(start, 1), 3), start)
                path.replace(self._path)
                grey, self._file = self._file, self._path.open("r+b", buffering=0)
                grey.close()
            except OSError as error:
                self._into_memory(error)
        self._kept = [repeated(images, 3) for images in self._kept]


def repeated(images: Images, channels: int) -> Images:
    """Grey images in as many channels; others as they are."""
    return np.repeat(images, channels, axis=3) if images.shape[3] < channels else images
