"""Write decoded images to a .npy file, batch by batch."""

import io
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tuner.data.images import AT_ONCE, Images
from tuner.data.listing import printable
from tuner.errors import InputError

HEADER = 128  # bytes that NumPy writes for four dimensions, with room for the first to grow


class Rows:
    """A growing array of images, in a file.

    It is grey until the first colour image, unless ``channels`` is given. Without a path it is in
    memory. If writing fails, it moves there, and ``give_up`` receives the error.
    """

    def __init__(
        self, path: Path | None, size: int, channels: int | None, give_up: Callable[[OSError], None]
    ) -> None:
        self._path, self._size, self._channels, self._give_up = path, size, channels or 1, give_up
        self._kept: list[Images] = []
        self._file: io.FileIO | None = None
        self.count = 0
        try:
            if path is not None:
                self._file = path.open("wb", buffering=0)
        except OSError as error:
            give_up(error)

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        return (self.count, self._size, self._size, self._channels)

    def append(self, images: Images) -> None:
        """Append uint8 images (k, size, size, 1 or 3)."""
        if images.shape[3] > self._channels and self.count:
            self._widen()
        self._channels = max(self._channels, images.shape[3])
        images = repeated(images, self._channels)
        if self._file is not None:
            try:
                self._write(self._file, images, self.count)
            except OSError as error:
                self._into_memory(error)
        self.count += len(images)
        if self._file is None:
            check_memory(math.prod(self._shape), "decoded images")
            self._kept.append(images)

    def finish(self) -> Images:
        """Return all images, memory-mapped if they are in a file."""
        if self._file is not None and self._path is not None:
            header = {"descr": "|u1", "fortran_order": False, "shape": self._shape}
            try:
                self._file.seek(0)
                np.lib.format.write_array_header_1_0(self._file, header)
                assert self._file.tell() == HEADER
                os.fsync(self._file.fileno())
                found: Images = np.load(self._path, mmap_mode="r", allow_pickle=False)
                return found
            except OSError as error:
                self._into_memory(error)
        return np.concatenate([np.empty((0, *self._shape[1:]), np.uint8), *self._kept])

    def close(self) -> None:
        """Close the file, without removing it."""
        if self._file is not None:
            self._file.close()

    def _write(self, file: io.FileIO, images: Images, place: int) -> None:
        file.seek(HEADER + place * math.prod(images.shape[1:]))
        left = np.ascontiguousarray(images).data.cast("B")
        while left:
            left = left[file.write(left) or 0 :]

    def _written(self) -> Images:
        """The images in the file, memory-mapped."""
        return np.memmap(str(self._path), np.uint8, "r", HEADER, self._shape)

    def _into_memory(self, error: OSError) -> None:
        """Move the images to memory, for example if the disk is full."""
        self._give_up(error)
        check_memory(math.prod(self._shape), "decoded images")
        self._kept = [np.array(self._written())] if self.count else []
        self.close()
        self._file = None

    def _widen(self) -> None:
        """Convert the grey images so far to three channels; a new file replaces the old one."""
        if self._file is not None and self._path is not None:
            path, grey = self._path.with_suffix(".wide"), self._written()
            try:
                with path.open("xb", buffering=0) as wide:
                    for start in range(0, self.count, AT_ONCE):
                        self._write(wide, repeated(grey[start : start + AT_ONCE], 3), start)
                self.close()
                self._file = path.open("r+b", buffering=0)
                path.replace(self._path)
            except OSError as error:
                self._into_memory(error)
        self._kept = [repeated(images, 3) for images in self._kept]


def repeated(images: Images, channels: int) -> Images:
    """Repeat grey images into ``channels``; leave others unchanged."""
    return np.repeat(images, channels, axis=3) if images.shape[3] < channels else images


def check_memory(count: int, what: str) -> None:
    """Raise InputError if ``count`` bytes exceed this machine's memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if count > memory:
        raise InputError(
            f"{printable(what)}: {count / 1e9:,.1f} GB of images do not fit into this "
            f"machine's {memory / 1e9:,.1f} GB of memory; give fewer or smaller images"
        )
