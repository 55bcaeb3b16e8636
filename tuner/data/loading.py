"""``load_images``: the images that a study file names, decoded once and cached."""

from contextlib import ExitStack, closing
from importlib import import_module
from pathlib import Path

import numpy as np

from tuner.data import cache
from tuner.data.arrays import default_fit, fit_array
from tuner.data.cache import Skipped
from tuner.data.decoding import Recipe, decode_all
from tuner.data.holdout import hold_out
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
from tuner.data.listing import NAMED, Progress, check_data_option, counted
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
    found = _load_all(spec, folder, announce)
    if not spec.holdout:
        return found
    split = hold_out(found, spec.holdout)
    announce(f"{len(found.images) - len(split.images):,} of them are held out of training")
    return split


def _load_all(spec: DataSpec, folder: str | None, announce: Announce) -> ImageSet:
    check_data_option(spec, folder)
    module, _, name = SOURCES[spec.source].loader.partition(":")
    source = getattr(import_module(f"tuner.data.{module}"), name)(spec, folder, announce)
    if not isinstance(source, Arrays):
        return _decoded_once(spec, source, announce)
    fit = spec.fit or source.fit or default_fit(source.images.shape, spec.size)
    images = fit_array(source.images, Recipe(spec.size, fit, spec.channels))
    labels = None if source.labels is None else ranked(source.labels)[0]
    # The hash is of the labels as they are in the source.
    return ImageSet(images, labels, fingerprint(images, source.labels))


def _decoded_once(spec: DataSpec, source: FileSource, announce: Announce) -> ImageSet:
    entry = cache.entry_folder(spec, source.where, source.files)
    found = cache.load(entry)
    if found is not None:
        announce(f"using images that were decoded before: {entry}")
    else:
        with cache.lock(entry, announce) as locked:
            found = cache.load(entry) or _decode(spec, source, entry, locked, announce)
    images, skipped = found
    _check_unreadable(spec, source.where, skipped, len(images.images) + skipped.unreadable)
    kinds = f" in {images.classes} classes" if images.classes else ""
    unreadable = (
        f"; left out {skipped.unreadable:,} unreadable{_named(skipped)}"
        if skipped.unreadable
        else ""
    )
    others = f"; skipped {counted(skipped.others, 'other file')}" if skipped.others else ""
    announce(f"{counted(len(images.images), 'image')}{kinds}{unreadable}{others}")
    return images


def _decode(
    spec: DataSpec, source: FileSource, entry: Path, locked: bool, announce: Announce
) -> tuple[ImageSet, Skipped]:
    """Decode all images, and cache them if possible."""

    def give_up(error: OSError) -> None:
        problem = error.strerror or error
        announce(f"decoded images are not cached in {entry.parent}: {problem}")

    with ExitStack() as stack:
        part = None
        try:
            if not source.files.settled:
                raise OSError("the source changed a moment ago")
            part = Path(stack.enter_context(cache.new_part(entry, locked)))
        except OSError as error:
            give_up(error)
        file = part and part / cache.IMAGES
        rows = stack.enter_context(closing(Rows(file, spec.size, spec.channels, give_up)))
        labels, names, skipped = _fill(rows, source.open(), spec, source.where, announce)
        images = rows.finish()
        found = ImageSet(images, labels, fingerprint(images, labels), names)
        if part and isinstance(images, np.memmap):
            try:
                cache.store(part, entry, found, skipped)
            except OSError as error:
                give_up(error)
        return found, skipped


def _fill(
    rows: Rows, opened: Opened, spec: DataSpec, where: str, announce: Announce
) -> tuple[Labels | None, tuple[str, ...], Skipped]:
    """Decode all images into ``rows``; return labels, their names, and what was left out."""
    labels: list[int | str | None] = []
    skipped = Skipped(others=opened.others)
    progress = Progress("decoding images", announce, opened.total)
    recipe = Recipe(spec.size, spec.fit or opened.fit, spec.channels)
    with closing(decode_all(opened.items, recipe)) as batches:
        for images, some, unreadable in batches:
            if len(images):
                rows.append(images)
            labels += some
            skipped = skipped._replace(
                unreadable=skipped.unreadable + len(unreadable),
                first=(*skipped.first, *unreadable)[:NAMED],
            )
            seen = rows.count + skipped.unreadable
            if opened.total and skipped.unreadable > spec.unreadable * opened.total:
                _check_unreadable(spec, where, skipped, seen, "the first ")
            progress.show(seen)
    if not rows.count:
        raise InputError(f"{where}: no image can be read{_named(skipped)}")
    known = [label for label in labels if label not in (None, WITHHELD)]
    if known and len(known) < len(labels):
        raise InputError(
            f"{where}: {len(labels) - len(known):,} of {len(labels):,} images have no label; label "
            "all images or none"
        )
    return *ranked(known, opened.names), skipped


def _check_unreadable(
    spec: DataSpec, where: str, skipped: Skipped, seen: int, which: str = ""
) -> None:
    """Raise InputError if more images are unreadable than the study file allows."""
    if skipped.unreadable > spec.unreadable * seen:
        raise InputError(
            f"{where}: {skipped.unreadable:,} of {which}{seen:,} images can't be read, more than "
            f"data.unreadable = {spec.unreadable:.3g} allows{_named(skipped)}"
        )


def _named(skipped: Skipped) -> str:
    more = ", …" if skipped.unreadable > len(skipped.first) else ""
    return f": {', '.join(skipped.first)}{more}" if skipped.first else ""
