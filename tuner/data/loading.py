"""``load_images``: the images that a study file names, decoded once and kept for the next start."""

import functools
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tuner.data import arrays, cache
from tuner.data.cache import Left
from tuner.data.decoding import Recipe, decoded
from tuner.data.images import (
    Announce,
    Images,
    ImageSet,
    Labels,
    Opened,
    fingerprint,
    ranked,
    silent,
)
from tuner.data.listing import Source, counted, image_folder
from tuner.data.rows import Rows
from tuner.data.tables import table_source
from tuner.data.toys import gaussians
from tuner.errors import InputError
from tuner.spec import DataSpec, Fit

NAMED = 3  # unreadable images that are named
PAUSE = 0.5, 10.0  # seconds between words on progress, where the end is known and where not


def load_images(spec: DataSpec, folder: str | None = None, announce: Announce = silent) -> ImageSet:
    """The images that ``[data]`` names, or their copy in ``folder``, at its size.

    InputError says what is missing, or can't be read. ``announce`` hears of decoding and of what
    was left out.
    """
    match spec.source:
        case "mnist5k":
            return _from_arrays(spec, *arrays.mnist5k())
        case "digits":
            return _from_arrays(spec, *arrays.digits(), fit="crop")
        case "gaussians":
            return _from_arrays(spec, *gaussians(spec.size, spec.modes))
        case "idx":
            return _from_arrays(spec, *arrays.idx(arrays.idx_folder(spec, folder)))
        case "npz":
            return _decoded_once(spec, *arrays.npz_source(spec, folder), announce)
        case "folder":
            return _decoded_once(spec, *image_folder(spec, folder), announce)
        case "parquet" | "huggingface":
            return _decoded_once(spec, *table_source(spec, folder), announce)


def _from_arrays(
    spec: DataSpec, images: Images, labels: Labels | None, fit: Fit | None = None
) -> ImageSet:
    """``fit`` is what the source does unless the study file says."""
    fit = spec.fit or fit or arrays.fitting(images.shape, spec.size)
    images = arrays.fit_array(images, Recipe(spec.size, fit, spec.channels))
    known = fingerprint(images, labels)  # of labels as they are in the source
    return ImageSet(images, None if labels is None else ranked(labels)[0], known)


def _decoded_once(spec: DataSpec, where: str, source: Source, announce: Announce) -> ImageSet:
    place = cache.place_of(spec, where, source.files)
    found = cache.find(place)
    if found is not None:
        announce(f"the images were decoded before: {place}")
    else:
        with cache.alone_with(place, announce) as alone:
            found = cache.find(place) or _decode(spec, where, source, place, alone, announce)
    images, left = found
    _check_unreadable(spec, where, left, len(images.images) + left.unreadable)
    announce(_summary(images, left))
    return images


def _decode(
    spec: DataSpec, where: str, source: Source, place: Path, alone: bool, announce: Announce
) -> tuple[ImageSet, Left]:
    """Decode all images, and keep them where that can be done."""
    give_up = functools.partial(_not_kept, place, announce)
    with _part(source, place, alone, give_up) as part:
        with closing(_rows(part, spec, give_up)) as rows:
            labels, names, left = _fill(rows, source.open(), spec, where, announce)
            images = rows.finish()
        found = ImageSet(images, labels, fingerprint(images, labels), names)
        if part and not rows.in_memory:
            try:
                cache.keep(part, place, found, left)
            except OSError as error:
                give_up(error)
        return found, left


def _not_kept(place: Path, announce: Announce, error: OSError) -> None:
    reason = error.strerror or error
    announce(f"decoded images are not kept for the next start, in {place.parent}: {reason}")


@contextmanager
def _part(
    source: Source, place: Path, alone: bool, give_up: Callable[[OSError], None]
) -> Iterator[Path | None]:
    """The folder to write to; None where there is none. Nothing of it is left behind."""
    part = None
    try:
        if not source.files.settled:
            raise OSError("they changed a moment ago")
        part = cache.new_part(place, alone)
    except OSError as error:
        give_up(error)
    try:
        yield part
    finally:
        if part:
            shutil.rmtree(part, ignore_errors=True)


def _rows(part: Path | None, spec: DataSpec, give_up: Callable[[OSError], None]) -> Rows:
    try:
        return Rows(part and part / cache.IMAGES, spec.size, spec.channels, give_up)
    except OSError as error:
        give_up(error)
        return Rows(None, spec.size, spec.channels, give_up)


def _fill(
    rows: Rows, opened: Opened, spec: DataSpec, where: str, announce: Announce
) -> tuple[Labels | None, tuple[str, ...], Left]:
    """Decode all images into ``rows``: their labels, the labels' names, and what was left out."""
    labels: list[int | str | None] = []
    left = Left(others=opened.others)
    progress = _Progress(opened.total, announce)
    recipe = Recipe(spec.size, spec.fit or opened.fit, spec.channels)
    with closing(decoded(opened.items, recipe)) as batches:
        for images, some, unreadable in batches:
            if len(images):
                rows.append(images)
            labels += some
            left = left._replace(
                unreadable=left.unreadable + len(unreadable),
                first=(*left.first, *unreadable)[:NAMED],
            )
            seen = rows.count + left.unreadable
            if opened.total and left.unreadable > spec.unreadable * opened.total:
                _check_unreadable(spec, where, left, seen, "the first ")
            progress.show(seen)
    if not rows.count:
        raise InputError(f"{where}: found no image that can be read{_named(left)}")
    return *_labels(labels, opened, where), left


def _labels(
    labels: list[int | str | None], opened: Opened, where: str
) -> tuple[Labels | None, tuple[str, ...]]:
    """Labels all of one value, or all missing, are none."""
    known = [label for label in labels if label is not None]
    if known and len(known) < len(labels):
        missing = len(labels) - len(known)
        raise InputError(
            f"{where}: found {missing:,} of {len(labels):,} images without a label, expected all "
            "or none"
        )
    ranks, names = ranked(known, opened.names)
    return (ranks, names) if len(names) > 1 else (None, ())


class _Progress:
    """Announces how far decoding is, now and then."""

    def __init__(self, total: int | None, announce: Announce) -> None:
        self._total, self._announce = total, announce
        self._began = self._last = time.monotonic()

    def show(self, seen: int) -> None:
        now = time.monotonic()
        if now - self._last < PAUSE[self._total is None]:
            return
        self._last = now
        speed = f"{seen / (now - self._began):,.0f} a second"
        if self._total:
            text = f"decoding images: {seen:,} of {self._total:,}, {speed}"
            self._announce(text, seen / self._total)
        else:
            self._announce(f"decoding images: {seen:,}, {speed}")


def _check_unreadable(spec: DataSpec, where: str, left: Left, seen: int, which: str = "") -> None:
    """InputError where more images than the study file allows can't be read, of those seen."""
    if left.unreadable > spec.unreadable * seen:
        raise InputError(
            f"{where}: found {left.unreadable:,} of {which}{seen:,} images unreadable, expected at "
            f"most {spec.unreadable:.3g} of them (data.unreadable){_named(left)}"
        )


def _named(left: Left) -> str:
    more = ", …" if left.unreadable > len(left.first) else ""
    return f": {', '.join(left.first)}{more}" if left.first else ""


def _summary(found: ImageSet, left: Left) -> str:
    kinds = f" in {found.classes} classes" if found.classes else ""
    skipped = f"; left out {left.unreadable:,} unreadable{_named(left)}" if left.unreadable else ""
    others = f"; passed over {counted(left.others, 'other file')}" if left.others else ""
    return f"{counted(len(found.images), 'image')}{kinds}{skipped}{others}"
