"""Image folders and array files as image sets: labels, unreadable files, the cache."""

import errno
import io
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import image_cache
import numpy as np
import pytest
from builders import spec_of
from image_cache import LONG_AGO
from numpy.typing import NDArray
from PIL import Image

from tuner.cli.main import main
from tuner.data import ImageSet, load_images
from tuner.data.images import fingerprint
from tuner.data.rows import Rows
from tuner.environment import IMAGES_VARIABLE
from tuner.errors import InputError
from tuner.run.startup import check_data
from tuner.spec.data import DataSpec

cache = image_cache.cache


class Announced(list[str]):
    """The announced lines."""

    def __call__(self, text: str, part: float | None = None) -> None:
        assert part is None or 0 <= part <= 1
        self.append(text)


def grey_image(grey: int, size: int = 32) -> NDArray[np.uint8]:
    return np.full((size, size), grey, np.uint8)


def save(pixels: NDArray[np.uint8], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    os.utime(path, (LONG_AGO, LONG_AGO))


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    os.utime(path, (LONG_AGO, LONG_AGO))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of grey images, 40 in each."""
    for place, name in enumerate(["cats", "ants", "bees"]):
        for number in range(40):
            save(grey_image(60 * place + number), tmp_path / "data" / name / f"{number:03}.png")
    return tmp_path / "data"


def load(path: Path, announced: Announced | None = None, **options: Any) -> ImageSet:
    spec = DataSpec.model_validate({"source": "folder", "path": str(path)} | options)
    return load_images(spec, announce=announced if announced is not None else Announced())


def test_sub_folders_are_classes(folder: Path) -> None:
    found = load(folder)
    assert found.images.shape == (120, 32, 32, 1)
    assert found.names == ("ants", "bees", "cats")
    assert found.labels is not None
    assert found.labels.tolist() == [0] * 40 + [1] * 40 + [2] * 40
    assert found.images[:, 0, 0, 0].tolist() == [*range(60, 100), *range(120, 160), *range(40)]
    assert found.fingerprint == fingerprint(np.array(found.images), found.labels)


def test_images_in_one_folder_have_no_labels(folder: Path) -> None:
    found = load(folder / "cats")
    assert (found.labels, found.classes, found.names) == (None, 0, ())
    assert found.images[:, 0, 0, 0].tolist() == list(range(40))


def test_one_sub_folder_is_no_label(folder: Path) -> None:
    (folder / "cats").rename(folder / "ants" / "old")
    (folder / "bees").rename(folder / "ants" / "bees")
    found = load(folder)
    assert found.labels is None
    assert len(found.images) == 120


def test_links_that_lead_back_are_followed_once(folder: Path) -> None:
    (folder / "cats" / "loop").symlink_to(folder)
    assert len(load(folder).images) == 120


def test_one_colour_image_makes_the_set_colour(folder: Path) -> None:
    colour = np.stack([grey_image(n) for n in (10, 20, 30)], axis=-1)
    save(
        colour, folder / "cats" / "zzz.png"
    )  # last by name, so all others are decoded as grey first
    found = load(folder)
    assert found.images.shape == (121, 32, 32, 3)
    np.testing.assert_array_equal(found.images[120], colour)
    assert (found.images[:120] == found.images[:120, :1, :1, :1]).all()
    assert found.images[:40, 0, 0, 2].tolist() == list(range(60, 100))


def test_other_files_are_counted(folder: Path) -> None:
    for name in ("labels.txt", "Thumbs.db", "a.eps"):
        write(folder / "ants" / name, b"x")
    write(folder / "ants" / "._000.png", b"metadata of macOS")
    announced = Announced()
    load(folder, announced)
    assert announced == ["120 images in 3 classes; skipped 3 other files"]


def test_a_few_unreadable_images_are_left_out_and_named(folder: Path) -> None:
    write(folder / "ants" / "000.png", b"")
    announced = Announced()
    found = load(folder, announced, unreadable=0.01)
    assert len(found.images) == 119
    assert found.labels is not None
    assert np.bincount(found.labels).tolist() == [39, 40, 40]
    message = "119 images in 3 classes; left out 1 unreadable: ants/000.png (not an image)"
    assert announced == [message]
    load(folder, announced)
    assert announced[-1] == message  # also from the cache


def test_unprintable_file_names_are_escaped(folder: Path) -> None:
    name = os.fsdecode(b"\xff\n.png")
    write(folder / "ants" / name, b"")
    announced = Announced()
    load(folder, announced)
    assert announced[-1].endswith("; left out 1 unreadable: ants/??.png (not an image)")


def test_too_many_unreadable_images_are_an_error(folder: Path) -> None:
    for number in range(4):
        write(folder / "cats" / f"{number:03}.png", b"")
    with pytest.raises(InputError) as caught:
        load(folder)
    assert str(caught.value) == (
        f"{folder}: 4 of the first 96 images can't be read, more than data.unreadable = 0.01 "
        "allows: cats/000.png (not an image), cats/001.png (not an image), "
        "cats/002.png (not an image), …"
    )
    assert len(load(folder, unreadable=0.05).images) == 116
    with pytest.raises(InputError, match="4 of 120 images can't be read"):
        load(folder)  # also from the cache


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no images among 0 files; give a folder with files that Pillow reads"),
        (["a.txt"], "no images among 1 file; give"),
        (["a.png", "x/b.png"], "1 image next to sub-folders with images; put all"),
    ],
)
def test_unusable_folders_are_refused(files: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in files:
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        write(tmp_path / "data" / name, b"")
    with pytest.raises(InputError) as caught:
        load(tmp_path / "data")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_readable_images_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.png", b"")
    with pytest.raises(InputError, match=r"no image can be read: a\.png \(not an image\)"):
        load(tmp_path, unreadable=1.0)


def test_counts_of_one_are_singular(tmp_path: Path) -> None:
    save(grey_image(9), tmp_path / "images" / "a.png")
    write(tmp_path / "images" / "a.txt", b"")
    announced = Announced()
    found = load(tmp_path / "images", announced)
    assert announced == ["1 image; skipped 1 other file"]
    with pytest.raises(InputError, match=r"^data: found 1 image, expected at least 20$"):
        check_data(spec_of(""), found)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"data\.path: .*none does not exist; give a folder of images"
    ):
        load(tmp_path / "none")
    with pytest.raises(
        InputError, match=r"data\.path: not set; give a folder of images, in the st"
    ):
        load_images(DataSpec(source="folder"))


def test_check_reads_the_given_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "s.toml"
    file.write_text("[data]\nsource = 'folder'\npath = 'there'")
    monkeypatch.setattr(sys, "argv", ["tuner", "check", str(file), "--data", f"{tmp_path}/here"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert f"data.path: {tmp_path}/here does not exist; give" in capsys.readouterr().err


def test_a_second_load_reads_the_cache(folder: Path) -> None:
    first = load(folder)
    for path in folder.rglob("*.png"):
        write(path, bytes(path.stat().st_size))  # the same size and time, but no image
    announced = Announced()
    again = load(folder, announced)
    assert announced[0].startswith("using images that were decoded before: ")
    assert isinstance(again.images, np.memmap)
    np.testing.assert_array_equal(again.images, first.images)
    assert again._replace(images=first.images) == first._replace(labels=again.labels)
    np.testing.assert_array_equal(again.labels, first.labels)


@pytest.mark.parametrize("change", ["time", "name", "size", "setting"])
def test_changed_files_are_decoded_again(change: str, folder: Path) -> None:
    load(folder)
    path = folder / "ants" / "000.png"
    match change:
        case "time":
            os.utime(path, (LONG_AGO + 1, LONG_AGO + 1))
        case "name":
            path.rename(folder / "ants" / "new.png")
        case "size":
            save(np.arange(1024, dtype=np.uint8).reshape(32, 32), path)
    announced = Announced()
    load(folder, announced, channels=3 if change == "setting" else 1)
    assert announced == ["120 images in 3 classes"]


def test_files_written_a_moment_ago_are_not_cached(folder: Path, cache: Path) -> None:
    (folder / "ants" / "000.png").touch()
    announced = Announced()
    load(folder, announced)
    assert announced[0].endswith(f"in {cache}: the source changed a moment ago")
    assert not list(cache.glob("*/*"))


@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "about"])
def test_a_damaged_cache_is_rebuilt(damage: str, folder: Path, cache: Path) -> None:
    first = load(folder)
    [kept] = cache.glob("*/images.npy")
    match damage:
        case "cut":
            kept.write_bytes(kept.read_bytes()[:-1])
        case "empty":
            kept.write_bytes(b"")
        case "gone":
            kept.unlink()
        case "about":
            (kept.parent / "about.json").write_text("{")
    announced = Announced()
    assert load(folder, announced).fingerprint == first.fingerprint
    assert announced == ["120 images in 3 classes"]
    load(folder, announced)
    assert announced[1].startswith("using images that were decoded before: ")


def test_an_unwritable_cache_does_not_prevent_loading(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(folder)
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv(IMAGES_VARIABLE, str(tmp_path / "file" / "cache"))
    announced = Announced()
    found = load(folder, announced)
    assert not isinstance(found.images, np.memmap)
    assert found.fingerprint == first.fingerprint
    assert announced[0].endswith("file/cache: Not a directory")
    assert len(announced) == 2


@pytest.mark.parametrize("after", [0, 150_000])  # bytes written before the disk is full
def test_a_full_disk_does_not_prevent_loading(
    after: int, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last image is in colour, so grey ones written before are rewritten if there is room."""
    save(np.full((32, 32, 3), 7, np.uint8), folder / "cats" / "zzz.png")
    first = load(folder)
    real = Rows._write

    def write(self: Rows, file: io.FileIO, images: NDArray[np.uint8], place: int) -> None:
        if place * images[0].size + images.size > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, file, images, place)

    monkeypatch.setattr(Rows, "_write", write)
    announced = Announced()
    (cache / "kept").mkdir()
    monkeypatch.setenv(IMAGES_VARIABLE, str(cache / "kept"))
    found = load(folder, announced)
    assert announced[0].endswith(f"in {cache}/kept: No space left on device")
    assert found.fingerprint == first.fingerprint
    assert not list(cache.glob("kept/*.part"))


PROCESS = """
import sys
from tuner.data import load_images
from tuner.spec.data import DataSpec
print(load_images(DataSpec(source="folder", path=sys.argv[1])).fingerprint)
"""


def test_concurrent_processes_share_one_cache_entry(folder: Path, cache: Path) -> None:
    for number in range(2000):
        save(grey_image(number % 200, 64), folder / "ants" / f"more-{number}.png")
    command = [sys.executable, "-W", "error", "-c", PROCESS, str(folder)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    fingerprints = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert fingerprints == [load(folder).fingerprint] * 2
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1


def test_a_second_process_waits_for_the_lock(folder: Path, cache: Path) -> None:
    """The process that holds the lock dies before it has decoded anything."""
    load(folder)
    [kept] = [path for path in cache.iterdir() if path.is_dir()]
    (kept / "about.json").unlink()
    left = cache / f"{kept.name}-abandoned.part"
    left.mkdir()
    code = "import fcntl, sys, time\nfile = open(sys.argv[1], 'w'); fcntl.flock(file, 2)"
    holder = subprocess.Popen(
        [sys.executable, "-c", f"{code}; print(flush=True); time.sleep(0.6)", f"{kept}.lock"],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    announced, began = Announced(), time.monotonic()
    assert len(load(folder, announced).images) == 120
    assert time.monotonic() - began > 0.3
    holder.communicate(timeout=10)
    assert announced[0].startswith("waiting for another process")
    assert not left.exists()


def saved_arrays(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def test_arrays_become_an_image_set(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 28, 28, 3), dtype=np.uint8)
    labels = np.arange(50).reshape(50, 1) % 4 * 10
    path = saved_arrays(tmp_path / "a.npz", images=images, labels=labels, x=images[:, :, :, 0])
    found = load(path, source="npz")
    np.testing.assert_array_equal(found.images[:, 2:30, 2:30], images)
    assert found.names == ("0", "10", "20", "30")
    assert found.labels is not None
    assert found.labels.tolist() == [n % 4 for n in range(50)]
    assert load(path, source="npz", images="x").images.shape == (50, 32, 32, 1)
    np.save(tmp_path / "b.npy", images)
    os.utime(tmp_path / "b.npy", (LONG_AGO, LONG_AGO))
    alone = load(tmp_path / "b.npy", source="npz")
    np.testing.assert_array_equal(alone.images, found.images)
    assert alone.labels is None
    announced = Announced()
    load(tmp_path / "b.npy", announced, source="npz")
    assert announced[0].startswith("using images that were decoded before")


GOOD = np.zeros((9, 8, 8), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"x": GOOD}, {}, "data.images: found no array 'images', expected one of: x"),
        ({"images": GOOD}, {"labels": "y"}, "data.labels: found no array 'y', expected one of: im"),
        ({"images": GOOD.astype(float)}, {}, "images float64 of shape (9, 8, 8); give arrays"),
        ({"images": GOOD[..., None][..., [0, 0]]}, {}, "of shape (9, 8, 8, 2); give"),
        ({"images": GOOD[:0]}, {}, "with n above 0"),
        ({"images": GOOD, "labels": np.zeros(8, int)}, {}, "shape (8,); give 9 whole numbers"),
        ({"images": GOOD, "labels": np.zeros(9)}, {}, "labels float64 of shape (9,)"),
        ({"images": np.array([None] * 9)}, {}, "can't be read: Object arrays"),
    ],
)
def test_unusable_arrays_are_refused(
    arrays: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = saved_arrays(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError) as caught:
        load(path, source="npz", **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text", b"\x93NUMPY\x01\x00"])
def test_files_without_arrays_are_refused(content: bytes, tmp_path: Path) -> None:
    write(tmp_path / "a.npz", content)
    with pytest.raises(InputError, match=r"a\.npz: can't be read: "):
        load(tmp_path / "a.npz", source="npz")
