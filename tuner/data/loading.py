"""``load_images``: the images that a study file names, decoded once and cached."""

from contextlib import ExitStack, closing
from importlib import import_module
from pathlib import Path

import numpy as np

from tuner.data import cache
from tuner.data.arrays import fit_array, fitting
from tuner.data.cache import Left
from tuner.data.decoding import Recipe, decoded
from tuner.data.images import (
    Announce,
    Arrays,
    FileSource,
    ImageSet,
    Labels,
    Opened,
    fingerprint,
    ranked,
    silent,
)
from tuner.data.listing import NAMED, Progress, check_place, counted
from tuner.data.rows import Rows
from tuner.errors import InputError
from tuner.spec.data import DataSpec
from tuner.spec.traits import SOURCES

WITHHELD = -1  # marks a label that the data set withholds


def load_images(spec: DataSpec, folder: str | None = None, announce: Announce = silent) -> ImageSet:
    """Load the images that ``[data]`` names, from ``folder`` if given, at the study's size.

    The source's loader in ``traits.SOURCES`` takes the same arguments and returns ``Arrays``, or a
    ``FileSource`` whose decoded images are cached. Raises InputError for images that are missing or
    can't be read; ``announce`` shows progress and what was left out.
    """
    check_place(spec, folder)
    module, _, name = SOURCES[spec.source].loader.partition(":")
    source = getattr(import_module(f"tuner.data.{module}"), name)(spec, folder, announce)
    if not isinstance(source, Arrays):
        return _decoded_once(spec, source, announce)
    fit = spec.fit or source.fit or fitting(source.images.shape, spec.size)
    images = fit_array(source.images, Recipe(spec.size, fit, spec.channels))
    known = fingerprint(images, source.labels)  # of labels as they are in the source
    return ImageSet(images, None if source.labels is None else ranked(source.labels)[0], known)


def _decoded_once(spec: DataSpec, source: FileSource, announce: Announce) -> ImageSet:
    place = cache.place_of(spec, source.where, source.files)
    found = cache.find(place)
    if found is not None:
        announce(f"the images were decoded before: {place}")
    else:
        with cache.alone_with(place, announce) as alone:
            found = cache.find(place) or _decode(spec, source, place, alone, announce)
    images, left = found
    _check_unreadable(spec, source.where, left, len(images.images) + left.unreadable)
    kinds = f" in {images.classes} classes" if images.classes else ""
    skipped = f"; left out {left.unreadable:,} unreadable{_named(left)}" if left.unreadable else ""
    others = f"; passed over {counted(left.others, 'other file')}" if left.others else ""
    announce(f"{counted(len(images.images), 'image')}{kinds}{skipped}{others}")
    return images


def _decode(
    spec: DataSpec, source: FileSource, place: Path, alone: bool, announce: Announce
) -> tuple[ImageSet, Left]:
    """Decode all images; cache them if that is possible."""

    def give_up(error: OSError) -> None:
        problem = error.strerror or error
        announce(f"decoded images are not kept for the next start, in {place.parent}: {problem}")

    with ExitStack() as stack:
        part = None
        try:
            if not source.files.settled:
                raise OSError("they changed a moment ago")
            part = Path(stack.enter_context(cache.new_part(place, alone)))
        except OSError as error:
            give_up(error)
        file = part and part / cache.IMAGES
        rows = stack.enter_context(closing(Rows(file, spec.size, spec.channels, give_up)))
        labels, names, left = _fill(rows, source.open(), spec, source.where, announce)
        images = rows.finish()
        found = ImageSet(images, labels, fingerprint(images, labels), names)
        if part and isinstance(images, np.memmap):
            try:
                cache.keep(part, place, found, left)
            except OSError as error:
                give_up(error)
        return found, left


def _fill(
    rows: Rows, opened: Opened, spec: DataSpec, where: str, announce: Announce
) -> tuple[Labels | None, tuple[str, ...], Left]:
    """Decode all images into ``rows``; return labels, their names, and what was left out."""
    labels: list[int | str | None] = []
    left = Left(others=opened.others)
    progress = Progress("decoding images", announce, opened.total)
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
        raise InputError(f"{where}: no image can be read{_named(left)}")
    known = [label for label in labels if label not in (None, WITHHELD)]
    if known and len(known) < len(labels):
        raise InputError(
            f"{where}: {len(labels) - len(known):,} of {len(labels):,} images have no label; label "
            "all images or none"
        )
    return *ranked(known, opened.names), left


def _check_unreadable(spec: DataSpec, where: str, left: Left, seen: int, which: str = "") -> None:
    """InputError if more of the images seen can't be read than the study file allows."""
    if left.unreadable > spec.unreadable * seen:
        raise InputError(
            f"{where}: {left.unreadable:,} of {which}{seen:,} images can't be read, more than "
            f"data.unreadable = {spec.unreadable:.3g} allows{_named(left)}"
        )


def _named(left: Left) -> str:
    more = ", …" if left.unreadable > len(left.first) else ""
    return f": {', '.join(left.first)}{more}" if left.first else ""
