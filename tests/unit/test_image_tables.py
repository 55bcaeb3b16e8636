"""Images in parquet files and data sets, read through the library datasets."""

import io
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tuner.data import DATA_VARIABLE, ImageSet, load_images
from tuner.errors import InputError
from tuner.places import IMAGES_VARIABLE
from tuner.spec import DataSpec

LONG_AGO = 1_700_000_000
COUNT = 300


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.setenv(IMAGES_VARIABLE, str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The library, or it is skipped; its files go where they are removed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        found = pytest.importorskip("datasets")
        found.disable_progress_bars()
        yield found


def png(grey: int) -> bytes:
    data = io.BytesIO()
    Image.new("L", (20, 20), grey).save(data, "PNG")
    return data.getvalue()


PICTURES = [png(number % 200) for number in range(COUNT)]


def declared(library: Any) -> Any:
    """A data set that declares what its columns are."""
    kinds = library.ClassLabel(names=["shoe", "bag", "coat"])
    features = library.Features(image=library.Image(), label=kinds)
    images = [{"bytes": data, "path": None} for data in PICTURES]
    labels = [number % 3 for number in range(COUNT)]
    return library.Dataset.from_dict({"image": images, "label": labels}, features=features)


def load(path: Path | str, **options: Any) -> ImageSet:
    for file in Path(path).rglob("*"):
        os.utime(file, (LONG_AGO, LONG_AGO))
    spec = DataSpec.model_validate({"source": "huggingface", "path": str(path)} | options)
    return load_images(spec)


def check(found: ImageSet, names: tuple[str, ...]) -> None:
    assert found.images[:, 0, 0, 0].tolist() == [number % 200 for number in range(COUNT)]
    assert found.names == names
    assert found.labels is not None
    assert [names[label] for label in found.labels[:3]] == ["shoe", "bag", "coat"]
    assert found.labels.tolist() == found.labels[:3].tolist() * (COUNT // 3)


def test_parquet_files_and_data_sets(library: Any, tmp_path: Path) -> None:
    """A folder of parquet files, either way, and what the library saves, with splits or without."""
    rows = declared(library)
    other = rows.select(range(9))
    rows.to_parquet(tmp_path / "p" / "data" / "train-00000-of-00001.parquet")
    other.to_parquet(tmp_path / "p" / "data" / "test-00000-of-00001.parquet")
    rows.save_to_disk(tmp_path / "one")
    library.DatasetDict(train=rows, test=other).save_to_disk(tmp_path / "two")
    names = ("shoe", "bag", "coat")
    for found in (load(tmp_path / "p"), load(tmp_path / "one"), load(tmp_path / "two")):
        check(found, names)
        assert found.shape == (32, 32, 1)
    check(load(tmp_path / "p", source="parquet"), names)
    for folder in ("p", "two"):
        assert len(load(tmp_path / folder, split="test").images) == 9
        with pytest.raises(InputError, match=r"can't be opened: .*test"):
            load(tmp_path / folder, split="validation")


def test_a_folder_of_images_as_the_library_reads_it(library: Any, tmp_path: Path) -> None:
    for number in range(COUNT):
        path = tmp_path / ("shoe", "bag", "coat")[number % 3] / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(PICTURES[number])
    found = load(tmp_path)
    assert (len(found.images), found.names) == (COUNT, ("bag", "coat", "shoe"))


def test_images_in_archives(library: Any, tmp_path: Path) -> None:
    """Or elsewhere, as addresses for fsspec; the first is damaged."""
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for number, data in enumerate([b"x", *PICTURES[1:]]):
            archive.writestr(f"{number}.png", data)
    paths = [f"zip://{number}.png::{tmp_path}/all.zip" for number in range(COUNT)]
    features = library.Features(image=library.Image())
    images = [{"bytes": None, "path": path} for path in paths]
    rows = library.Dataset.from_dict({"image": images}, features=features)
    rows.save_to_disk(tmp_path / "rows")
    found = load(tmp_path / "rows")
    assert found.images[:, 0, 0, 0].tolist() == [number % 200 for number in range(1, COUNT)]


def test_plain_columns_of_bytes_and_words(library: Any, tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    words = [("shoe", "bag", "coat")[number % 3] for number in range(COUNT)]
    table = {"id": list(range(COUNT)), "picture": PICTURES, "class": words, "thumb": PICTURES}
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table(table), path)
    os.utime(path, (LONG_AGO, LONG_AGO))
    first = load(path, source="parquet")
    check(first, ("bag", "coat", "shoe"))
    named = load(path, source="parquet", images="thumb", labels="id")
    assert named.classes == COUNT
    for key in ("images", "labels"):
        with pytest.raises(InputError, match=rf"data\.{key}: found no column 'x', expected one of"):
            load(path, source="parquet", **{key: "x"})
    parquet.write_table(arrow.table({"a": PICTURES, "b": PICTURES}), path)
    with pytest.raises(InputError, match=r"data\.images: found columns a, b, expected the one"):
        load(path, source="parquet")
    parquet.write_table(arrow.table({"a": [1, 2]}), path)
    with pytest.raises(InputError, match="found no column of images among a, expected one"):
        load(path, source="parquet")


def test_rows_without_an_image_or_a_label(library: Any, tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pictures = [None, b"x", *PICTURES[2:]]
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"image": pictures, "label": [-1] * COUNT}), path)
    found = load(path, source="parquet")
    assert len(found.images) == COUNT - 2
    assert found.labels is None  # all are kept back
    parquet.write_table(arrow.table({"image": pictures, "label": [1, 1, None, *range(297)]}), path)
    with pytest.raises(InputError, match="found 1 of 298 images without a label, expected all or"):
        load(path, source="parquet")


def test_a_second_start_needs_no_library(
    library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared(library).save_to_disk(tmp_path / "one")
    first = load(tmp_path / "one")
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert load(tmp_path / "one").fingerprint == first.fingerprint


def test_without_the_library_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    for path in (tmp_path, "somebody/pictures@v2"):
        with pytest.raises(InputError, match="not installed; install tuner with its extra 'datas"):
            load(path)


def test_no_such_data_set(library: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.path: found no .*none, expected parquet files or"):
        load(tmp_path / "none", source="parquet")
    with pytest.raises(
        InputError, match=r"data\.path: somebody/pictures can't be opened: "
    ) as caught:
        load("somebody/pictures")
    assert "\n" not in str(caught.value)
