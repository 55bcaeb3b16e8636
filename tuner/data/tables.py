"""Images in table columns: parquet files and data sets, read with the datasets library.

The library passes on errors of its readers and of the network, which may be any ``Exception``.
"""

import glob
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec

from tuner.data.decoding import MAX_BYTES
from tuner.data.images import Announce, Files, FileSource, Item, Opened, silent
from tuner.data.listing import data_name, data_path, files_in, printable
from tuner.errors import InputError
from tuner.hints import require
from tuner.paths import check_file, open_file
from tuner.spec.data import DataSpec

ROWS = 64  # read at once
CHAINED = "::"  # separates the parts of an fsspec URL, such as a file and its archive
ALLOWED_PROTOCOLS = ("zip", "tar", "hf", "file")  # protocols that such parts may use
HUB_NAME = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?(@[\w./-]+)?")
USUAL_NAMES = {
    "images": ("image", "images", "img", "picture"),
    "labels": ("label", "labels", "class", "target", "fine_label"),
}


def table(spec: DataSpec, folder: str | None, announce: Announce = silent) -> FileSource:
    """Parquet files, or a data set. Raises InputError if there is none."""
    suffixes, wanted = None, "the folder of a data set, or its name on the hub"
    if spec.source == "parquet":
        suffixes, wanted = {".parquet"}, "a parquet file, or a folder of them"
    where, files = data_name(spec, folder, wanted), Files("", 0.0)
    if suffixes or os.path.lexists(where) or not HUB_NAME.fullmatch(where):
        where = str(data_path(spec, folder, wanted))
        if CHAINED in where:  # fsspec splits the path there, escaped or not
            raise InputError(
                f"data.path: {printable(where)} can't be read with {CHAINED!r} in it; rename it"
            )
        files = files_in(where, suffixes, announce)
    return FileSource(where, files, lambda: _open(spec, where))


def _open(spec: DataSpec, where: str) -> Opened:
    library = require("datasets", "datasets", f"data.source: {spec.source!r}")
    library.disable_progress_bars()
    logging.getLogger("datasets").setLevel(logging.ERROR)
    try:
        rows = _rows(library, spec, where)
        features = rows.features or {}
    except Exception as error:
        raise InputError(f"data.path: {where} can't be opened: {_reason(error)}") from None
    image = _column("images", spec.images, features, library.Image)
    if image is None:
        columns = ", ".join(features) or "none"
        raise InputError(f"{where}: no column holds images; name one of {columns} as data.images")
    label = _column("labels", spec.labels, features, library.ClassLabel)
    if isinstance(features[image], library.Image):
        rows = rows.cast_column(image, library.Image(decode=False))
    names = getattr(features[label], "names", []) if label else []
    total = len(rows) if hasattr(rows, "__len__") else None
    return Opened(_items(rows, image, label, where), total, names=names)


def _reason(error: Exception) -> str:
    return printable(str(error).partition("\n")[0]) or type(error).__name__


def _rows(library: Any, spec: DataSpec, where: str) -> Any:
    """The split, streamed row by row, without the library's own cache."""
    options: dict[str, Any] = {"split": spec.split, "streaming": True}
    if spec.source == "parquet":
        files = _parquet_files(library, where, spec.split) if os.path.isdir(where) else [where]
        options["data_files"] = {spec.split: [glob.escape(file) for file in files]}
        return library.load_dataset("parquet", batch_size=ROWS, **options)
    if not os.path.exists(where):
        name, _, revision = where.partition("@")
        return library.load_dataset(name, spec.subset or None, revision=revision or None, **options)
    if {"state.json", "dataset_dict.json"} & set(os.listdir(where) if os.path.isdir(where) else ()):
        return library.load_from_disk(_saved(where, spec.split))
    if glob.has_magic(where):
        base = glob.escape(where)
        patterns = library.data_files.get_data_patterns(base).items()
        options["data_files"] = {key: [f"{base}/{p}" for p in some] for key, some in patterns}
    return library.load_dataset(where, spec.subset or None, **options)


def _parquet_files(library: Any, where: str, split: str) -> list[str]:
    """The files of a split, found by the library's naming rules, with all paths taken literally."""
    base, tools = glob.escape(where), library.data_files
    patterns = tools.get_data_patterns(base)
    _check_split(split, patterns)
    found: dict[str, None] = {}
    for pattern in patterns[split]:
        with suppress(FileNotFoundError):
            found |= dict.fromkeys(tools.resolve_pattern(pattern, base, [".parquet"]))
    return list(found)


def _check_split(split: str, splits: Iterable[str]) -> None:
    if split not in splits:
        raise ValueError(f"it has no split {split!r}; set data.split to one of {', '.join(splits)}")


def _saved(where: str, split: str) -> str:
    """The folder of a saved split. Raises ValueError if it is missing or names files elsewhere."""
    if os.path.exists(os.path.join(where, "dataset_dict.json")):
        _check_split(split, sorted(path.parent.name for path in Path(where).glob("*/state.json")))
        where = os.path.join(where, split)
    with open_file(os.path.join(where, "state.json")) as file:
        names = [part["filename"] for part in json.load(file)["_data_files"]]
    for name in names:
        if name != os.path.basename(name):
            raise ValueError(f"state.json names {name}, which is not in its folder")
    return where


def _fits(key: str, name: str, kind: Any) -> bool:
    """Whether an undeclared column may hold images, or labels if it has one of the usual names."""
    dtype = str(getattr(kind, "dtype", ""))
    if key == "images":
        return "bytes" in kind if isinstance(kind, dict) else dtype in ("binary", "large_binary")
    return name in USUAL_NAMES[key] and bool(re.fullmatch("u?int.*|bool|(large_)?string", dtype))


def _column(key: str, named: str, features: Any, declared: Any) -> str | None:
    """The column that the study file names as data.``key``, else the only candidate, if any.

    Candidates are columns of type ``declared``, else those that fit. Usual names take precedence.
    """
    if named and named not in features:
        expected = ", ".join(features) or "none"
        raise InputError(f"data.{key}: found no column {named!r}, expected one of: {expected}")
    found = [name for name, kind in features.items() if isinstance(kind, declared)]
    found = found or [name for name, kind in features.items() if _fits(key, name, kind)]
    preferred = [name for name in USUAL_NAMES[key] if name in found]
    if named or len(found) < 2 or preferred:
        return named or next(iter(preferred or found), None)
    raise InputError(f"data.{key}: not set, with several candidates; name {' or '.join(found)}")


def _items(rows: Any, image: str, label: str | None, where: str) -> Iterator[Item]:
    number = 0
    columns = rows.select_columns([image, *([label] if label else [])])
    batches = columns.iter(batch_size=ROWS)
    while True:
        try:
            batch = next(batches, None)
        except Exception as error:
            problem = f"can't be read after row {number}: {_reason(error)}"
            raise InputError(f"{where}: {problem}") from None
        if batch is None:
            return
        values = batch[label] if label else [None] * len(batch[image])
        for content, value in zip(batch[image], values, strict=True):
            yield Item(_content(content), _label(value), f"row {number}")
            number += 1


def _content(value: Any) -> str | bytes:
    """Bytes or a path; empty for a row without an image, which then counts as unreadable."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and "://" in value:
        return _from_archive(value)
    return value if isinstance(value, str | bytes) else b""


def _from_archive(address: str) -> bytes:
    """A file in an archive or on the hub; empty if it is elsewhere or can't be read."""
    try:
        for start, mark, rest in (part.partition("://") for part in address.split(CHAINED)):
            if mark and start not in ALLOWED_PROTOCOLS:  # tables must not open connections
                return b""
            if not mark or start == "file":
                check_file(rest or start)
        with fsspec.open(address, "rb") as file:
            return bytes(file.read(MAX_BYTES + 1))
    except Exception:  # each of fsspec's file systems raises its own errors
        return b""


def _label(value: Any) -> int | str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return int(value)
    raise InputError(f"data.labels: a label is {value!r}; name a column of whole numbers or words")
