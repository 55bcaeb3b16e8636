"""Folders of image files."""

import os
from collections.abc import Iterator

from tuner.data.decoding import image_suffixes
from tuner.data.images import Announce, FileSource, Item, Opened, silent
from tuner.data.listing import NAMED, Listing, counted, data_path, printable, reading
from tuner.errors import InputError
from tuner.spec.data import DataSpec

Group = tuple[
    str, list[tuple[str, list[str]]]
]  # a class: its name, and its folders with their files


def image_folder(spec: DataSpec, folder: str | None, announce: Announce = silent) -> FileSource:
    """The images of a folder, with each sub-folder as a class.

    Images in the folder itself have no class. Every file with an image's suffix counts as an image,
    readable or not. Raises InputError if there are no images, or if there are images both in
    sub-folders and next to them.
    """
    root = str(data_path(spec, folder, "a folder of images", is_folder=True))
    listing = Listing(image_suffixes(), announce)
    groups = _groups(listing, root, announce)
    total = sum(len(files) for _, parts in groups for _, files in parts)
    if not total:
        others = counted(listing.others, "file")
        raise InputError(
            f"{root}: no images among {others}; give a folder with files that Pillow reads, "
            "such as .png"
        )
    names = [name for name, _ in groups]
    return FileSource(
        root, listing.files(), lambda: Opened(_items(root, groups), total, listing.others, names)
    )


def _groups(listing: Listing, root: str, announce: Announce) -> list[Group]:
    """The classes that have images; images without a class form one called ""."""
    with reading(root):
        direct, folders = listing.take(root)
        groups = [(name, list(listing.walk(root, name))) for name in folders]
    empty = [printable(name) for name, parts in groups if not parts]
    groups = [group for group in groups if group[1]]
    unsorted = [name for name in direct if os.path.exists(os.path.join(root, name))]
    if unsorted and groups:
        raise InputError(
            f"{root}: {counted(len(unsorted), 'image')} next to sub-folders with images; put all "
            "images into sub-folders, one for each class, or all into one folder"
        )
    if empty and groups:
        listed = ", ".join(empty[:NAMED]) + (", …" if len(empty) > NAMED else "")
        announce(f"{counted(len(empty), 'sub-folder')} without images: {listed}")
    return [("", [("", direct)]), *groups] if direct or not groups else groups


def _items(root: str, groups: list[Group]) -> Iterator[Item]:
    for label, (_, parts) in enumerate(groups):
        for within, files in parts:
            for file in files:
                name = os.path.join(within, file)
                yield Item(os.path.join(root, name), label, name)
