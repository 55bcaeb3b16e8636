"""Images in columns of tables: parquet files and data sets, through the library datasets."""

import importlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec

from tuner.data.images import Item, Opened
from tuner.data.listing import Files, Source, data_path, files_in
from tuner.errors import InputError
from tuner.spec import DataSpec

ROWS = 256  # that are read at once
ON_THE_HUB = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")
LABELS = ("label", "labels", "class", "target", "fine_label")
IMAGES = ("image", "images", "img", "picture")


def table_source(spec: DataSpec, folder: str | None) -> tuple[str, Source]:
    """Where the data set is, and its images. InputError where there is none."""
    if spec.source == "parquet":
        name = data_path(spec, folder, "a parquet file, or a folder with some")
    else:
        name = data_path(spec, folder, "the folder of a data set, or a name on the hub")
    path = Path(name).expanduser()
    if not path.exists():
        if spec.source == "huggingface" and ON_THE_HUB.fullmatch(name):
            return name, Source(Files("", 0.0), lambda: _open(spec, name))
        raise InputError(f"data.path: found no {path}, expected parquet files or a data set")
    where = str(path.resolve())
    suffixes = {".parquet"} if spec.source == "parquet" else None
    return where, Source(files_in(where, suffixes), lambda: _open(spec, where))


def _open(spec: DataSpec, where: str) -> Opened:
    library = _library()
    try:
        rows = _rows(library, spec, where)
        features = rows.features or {}
    # The library passes on whatever its readers and the network raise.
    except Exception as error:
        raise InputError(f"data.path: {where} can't be opened: {_line(error)}") from None
    image = _column("images", spec.images, features, _image_columns(features, library), IMAGES)
    label = _column("labels", spec.labels, features, _label_columns(features, library), LABELS)
    if image is None:
        raise InputError(
            f"{where}: found no column of images among {', '.join(features) or 'none'}, "
            "expected one; data.images names it"
        )
    if isinstance(features[image], library.Image):
        rows = rows.cast_column(image, library.Image(decode=False))
    names = getattr(features[label], "names", []) if label else []
    total = len(rows) if hasattr(rows, "__len__") else None
    return Opened(_items(rows, image, label, where), total, names=names)


def _library() -> Any:
    try:
        library = importlib.import_module("datasets")
    except ImportError:
        raise InputError(
            "data.source: parquet files and data sets are read by the package datasets, which is "
            "not installed; install tuner with its extra 'datasets'"
        ) from None
    library.disable_progress_bars()
    logging.getLogger("datasets").setLevel(logging.ERROR)
    return library


def _rows(library: Any, spec: DataSpec, where: str) -> Any:
    """The split, read row by row: nothing is copied to the library's own cache."""
    if spec.source == "parquet":
        files = {"data_dir": where} if os.path.isdir(where) else {"data_files": {spec.split: where}}
        return library.load_dataset("parquet", split=spec.split, streaming=True, **files)
    kept = {"state.json", "dataset_dict.json"} & set(
        os.listdir(where) if os.path.isdir(where) else ()
    )
    if kept:
        found = library.load_from_disk(where)
        if isinstance(found, dict) and spec.split not in found:
            raise ValueError(f"found splits {', '.join(found)}, expected {spec.split!r}")
        return found[spec.split] if isinstance(found, dict) else found
    name, _, revision = (where, "", "") if os.path.exists(where) else where.partition("@")
    return library.load_dataset(
        name, spec.subset or None, split=spec.split, revision=revision or None, streaming=True
    )


def _image_columns(features: Any, library: Any) -> list[str]:
    """Those declared as images, else those of bytes."""
    declared = [name for name, kind in features.items() if isinstance(kind, library.Image)]
    return declared or [name for name, kind in features.items() if _bytes(kind)]


def _bytes(kind: Any) -> bool:
    if isinstance(kind, dict):
        return "bytes" in kind
    return getattr(kind, "dtype", None) in ("binary", "large_binary")


def _label_columns(features: Any, library: Any) -> list[str]:
    """Those declared as classes, else whole numbers and words under a usual name."""
    declared = [name for name, kind in features.items() if isinstance(kind, library.ClassLabel)]
    return declared or [
        name
        for name in LABELS
        if re.fullmatch(
            "u?int.*|bool|(large_)?string", str(getattr(features.get(name), "dtype", ""))
        )
    ]


def _column(
    key: str, named: str, features: Any, found: list[str], usual: tuple[str, ...]
) -> str | None:
    """The column that the study file names, or the one that there is; None where there is none."""
    if named and named not in features:
        expected = ", ".join(features) or "none"
        raise InputError(f"data.{key}: found no column {named!r}, expected one of {expected}")
    preferred = [name for name in usual if name in found]
    if named or len(found) < 2 or preferred:
        return named or next(iter(preferred or found), None)
    raise InputError(f"data.{key}: found columns {', '.join(found)}, expected the one to use named")


def _items(rows: Any, image: str, label: str | None, where: str) -> Iterator[Item]:
    number = 0
    columns = rows.select_columns([image, *([label] if label else [])])
    batches = columns.iter(batch_size=ROWS)
    while True:
        try:
            batch = next(batches, None)
        except Exception as error:  # as above
            raise InputError(f"{where}: can't be read after row {number}: {_line(error)}") from None
        if batch is None:
            return
        values = batch[label] if label else [None] * len(batch[image])
        for value, kind in zip(batch[image], values, strict=True):
            yield Item(_content(value), _label(kind), f"row {number}")
            number += 1


def _content(value: Any) -> str | bytes:
    """Bytes, or a path; nothing where the row has no image, which is then unreadable."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and "://" in value:  # in an archive, or on the hub
        try:
            with fsspec.open(value, "rb") as file:
                return bytes(file.read())
        except Exception:  # as above
            return b""
    return value if isinstance(value, str | bytes) else b""


def _label(value: Any) -> int | str | None:
    """None for -1, by which data sets say that the label is kept back."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return None if value == -1 else int(value)
    raise InputError(f"data.labels: found {value!r}, expected whole numbers or words")


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
