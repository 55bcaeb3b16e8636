"""Images in parquet files and data sets, read with the datasets library."""

import io
import json
import os
import socket
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import image_cache
import pytest
from image_cache import LONG_AGO
from PIL import Image

from tuner.data import ImageSet, load_images
from tuner.errors import InputError
from tuner.spec.data import DataSpec

cache = image_cache.cache
COUNT = 300


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The package ``datasets``, with its cache in a temporary folder."""
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


def declared(datasets: Any) -> Any:
    """A data set with declared column types."""
    kinds = datasets.ClassLabel(names=["shoe", "bag", "coat"])
    features = datasets.Features(image=datasets.Image(), label=kinds)
    images = [{"bytes": data, "path": None} for data in PICTURES]
    labels = [number % 3 for number in range(COUNT)]
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)


def load(path: Path | str, **options: Any) -> ImageSet:
    for file in Path(path).rglob("*"):
        os.utime(file, (LONG_AGO, LONG_AGO))
    spec = DataSpec.model_validate({"source": "huggingface", "path": str(path)} | options)
    return load_images(spec)


def assert_images_and_labels(found: ImageSet, names: tuple[str, ...]) -> None:
    assert found.images[:, 0, 0, 0].tolist() == [number % 200 for number in range(COUNT)]
    assert found.names == names
    assert found.labels is not None
    assert [names[label] for label in found.labels[:3]] == ["shoe", "bag", "coat"]
    assert found.labels.tolist() == found.labels[:3].tolist() * (COUNT // 3)


def test_parquet_files_and_data_sets(datasets: Any, tmp_path: Path) -> None:
    """From parquet files and from saved data sets, with splits and without."""
    rows = declared(datasets)
    other = rows.select(range(9))
    rows.to_parquet(tmp_path / "p" / "data" / "train-00000-of-00001.parquet")
    other.to_parquet(tmp_path / "p" / "data" / "test-00000-of-00001.parquet")
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=rows, test=other).save_to_disk(tmp_path / "two")
    names = ("shoe", "bag", "coat")
    for found in (load(tmp_path / "p"), load(tmp_path / "one"), load(tmp_path / "two")):
        assert_images_and_labels(found, names)
        assert found.shape == (32, 32, 1)
    assert_images_and_labels(load(tmp_path / "p", source="parquet"), names)
    for folder in ("p", "two"):
        assert len(load(tmp_path / folder, split="test").images) == 9
        with pytest.raises(InputError, match=r"can't be opened: .*test"):
            load(tmp_path / folder, split="validation")


def test_a_folder_of_images_is_read_as_a_data_set(datasets: Any, tmp_path: Path) -> None:
    for number in range(COUNT):
        path = tmp_path / ("shoe", "bag", "coat")[number % 3] / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(PICTURES[number])
    found = load(tmp_path)
    assert (len(found.images), found.names) == (COUNT, ("bag", "coat", "shoe"))


def test_images_in_archives(datasets: Any, tmp_path: Path) -> None:
    """The rows are fsspec URLs; the first image is damaged."""
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for number, data in enumerate([b"x", *PICTURES[1:]]):
            archive.writestr(f"{number}.png", data)
    paths = [f"zip://{number}.png::{tmp_path}/all.zip" for number in range(COUNT)]
    features = datasets.Features(image=datasets.Image())
    images = [{"bytes": None, "path": path} for path in paths]
    rows = datasets.Dataset.from_dict({"image": images}, features=features)
    rows.save_to_disk(tmp_path / "rows")
    found = load(tmp_path / "rows")
    assert found.images[:, 0, 0, 0].tolist() == [number % 200 for number in range(1, COUNT)]


def test_plain_columns_of_bytes_and_paths(datasets: Any, tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    words = [("shoe", "bag", "coat")[number % 3] for number in range(COUNT)]
    table = {"id": list(range(COUNT)), "picture": PICTURES, "class": words, "thumb": PICTURES}
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table(table), path)
    os.utime(path, (LONG_AGO, LONG_AGO))
    first = load(path, source="parquet")
    assert_images_and_labels(first, ("bag", "coat", "shoe"))
    named = load(path, source="parquet", images="thumb", labels="id")
    assert named.classes == COUNT
    for key in ("images", "labels"):
        with pytest.raises(
            InputError, match=rf"data\.{key}: found no column 'x', expected one of: "
        ):
            load(path, source="parquet", **{key: "x"})
    parquet.write_table(arrow.table({"a": PICTURES, "b": PICTURES}), path)
    with pytest.raises(
        InputError, match=r"data\.images: not set, with several candidates; name a or b"
    ):
        load(path, source="parquet")
    parquet.write_table(arrow.table({"a": [1, 2]}), path)
    with pytest.raises(InputError, match=r"no column holds images; name one of a as data\.images"):
        load(path, source="parquet")


def test_rows_without_an_image_or_a_label(datasets: Any, tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pictures = [None, b"x", *PICTURES[2:]]
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"image": pictures, "label": [-1] * COUNT}), path)
    found = load(path, source="parquet")
    assert len(found.images) == COUNT - 2
    assert found.labels is None  # -1 means unknown
    parquet.write_table(arrow.table({"image": pictures, "label": [1, 1, None, *range(297)]}), path)
    with pytest.raises(InputError, match="1 of 298 images have no label; label all"):
        load(path, source="parquet")


def test_a_second_load_needs_no_library(
    datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared(datasets).save_to_disk(tmp_path / "one")
    first = load(tmp_path / "one")
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert load(tmp_path / "one").fingerprint == first.fingerprint


def test_a_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    for path in (tmp_path, "somebody/pictures@v2"):
        with pytest.raises(
            InputError, match=r"needs the package datasets; install it with .*datasets\]"
        ):
            load(path)


def test_missing_data_sets(datasets: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.path: .*none does not exist; give a parquet file"):
        load(tmp_path / "none", source="parquet")
    with pytest.raises(
        InputError, match=r"data\.path: somebody/pictures can't be opened: "
    ) as caught:
        load("somebody/pictures")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["faces [v2]", "what?", "run[1]", "50% #1", "*"])
def test_names_are_not_glob_patterns(name: str, datasets: Any, tmp_path: Path) -> None:
    """Neighbouring folders that a glob pattern would match are not read."""
    rows, other = declared(datasets), declared(datasets).select(range(9))
    for folder, found in ((name, rows), ("run1", other), ("whatX", other)):
        found.to_parquet(tmp_path / folder / "train.parquet")
        found.save_to_disk(tmp_path / "saved" / folder)
        path = tmp_path / "images" / folder / "train" / "shoe" / "1.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(PICTURES[7])
    names = ("shoe", "bag", "coat")
    assert_images_and_labels(load(tmp_path / name / "train.parquet", source="parquet"), names)
    assert_images_and_labels(load(tmp_path / name, source="parquet"), names)
    assert_images_and_labels(load(tmp_path / name), names)
    assert_images_and_labels(load(tmp_path / "saved" / name), names)
    assert load(tmp_path / "images" / name).images[:, 0, 0, 0].tolist() == [7]


def test_a_path_with_an_fsspec_separator_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a::b" / "x.parquet"
    path.parent.mkdir()
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"can't be read with '::' in it"):
        load(path, source="parquet")


def test_rows_may_name_only_regular_files(datasets: Any, tmp_path: Path) -> None:
    """Pipes, devices and other machines are never read."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    os.mkfifo(tmp_path / "pipe")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        urls = [
            *("/dev/zero", Path("/dev/zero").as_uri()),
            *(f"{tmp_path}/pipe", (tmp_path / "pipe").as_uri()),
            *(f"zip://a.png::{tmp_path}/pipe", "memory://a", str(tmp_path), ""),
            f"http://127.0.0.1:{server.getsockname()[1]}/a.png",
            f"zip://a.png::http://127.0.0.1:{server.getsockname()[1]}/a.zip",
        ]
        images: list[Any] = [{"bytes": data, "path": None} for data in PICTURES]
        images += [{"bytes": None, "path": url} for url in urls]
        parquet.write_table(arrow.table({"image": images}), tmp_path / "a.parquet")
        assert len(load(tmp_path / "a.parquet", source="parquet", unreadable=0.1).images) == COUNT
        with pytest.raises(BlockingIOError):  # no connection was made
            server.accept()


def test_saved_data_with_files_in_other_folders_are_refused(datasets: Any, tmp_path: Path) -> None:
    declared(datasets).save_to_disk(tmp_path / "one")
    state = json.loads((tmp_path / "one" / "state.json").read_text())
    state["_data_files"][0]["filename"] = "../other/data.arrow"
    (tmp_path / "one" / "state.json").write_text(json.dumps(state))
    with pytest.raises(
        InputError, match=r"state\.json names \.\./other/data\.arrow, which is not in"
    ):
        load(tmp_path / "one")
