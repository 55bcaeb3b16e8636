"""Image folders, archives and caches with odd contents: broken links, pipes, devices, damaged
metadata, and headers that claim more data than there is."""

import gzip
import io
import os
import socket
import struct
import subprocess
import threading
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import image_cache
import numpy as np
import pytest
from image_cache import LONG_AGO
from numpy.typing import NDArray
from PIL import Image

from tuner.data import ImageSet, load_images
from tuner.data.decoding import MAX_PIXELS, Recipe, _Budget, decode_all, decode_batch, decode_image
from tuner.data.folders import image_folder
from tuner.data.images import Item
from tuner.errors import InputError
from tuner.spec.data import DataSpec

cache = image_cache.cache
NATIVE = Recipe(32, "crop", None)
RANDOM = np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of 20 images each."""
    for name in ("ants", "bees"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(20):
            path = tmp_path / "data" / name / f"{number:02}.png"
            Image.fromarray(noise(32, 32)).save(path)
            os.utime(path, (LONG_AGO, LONG_AGO))
    return tmp_path / "data"


def noise(*shape: int) -> NDArray[np.uint8]:
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def load(path: Path, **options: Any) -> tuple[ImageSet, list[str]]:
    """The images and the announced messages."""
    announced: list[str] = []
    spec = DataSpec.model_validate({"source": "folder", "path": str(path)} | options)
    return load_images(spec, announce=lambda text, part=None: announced.append(text)), announced


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        load(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_links_that_lead_nowhere_are_unreadable_images(folder: Path) -> None:
    (folder / "ants" / "gone.png").symlink_to("/nowhere/annex/1.png")
    (folder / "bees" / "self.png").symlink_to("self.png")
    (folder / "cats").symlink_to("/nowhere/cats")
    (folder / "ants" / "README.md").symlink_to("/nowhere/README.md")
    (folder / "ants" / "new").mkdir()
    found, announced = load(folder, unreadable=0.1)
    assert len(found.images) == 40
    assert found.names == ("ants", "bees")
    left, _, others = announced[-1].partition("; ")[2].partition("; ")
    assert left == (
        "left out 3 unreadable: cats (No such file or directory), "
        "ants/gone.png (No such file or directory), "
        "bees/self.png (Too many levels of symbolic links)"
    )
    assert others == "skipped 1 other file"
    assert "3 of 43 images can't be read, more than data.unreadable = 0.01 allows" in refused(
        folder
    )


def test_an_empty_class_folder_is_named(folder: Path) -> None:
    (folder / "cats").mkdir()
    assert load(folder)[1][0] == "1 sub-folder without images: cats"


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_irregular_files_do_not_block(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "ants" / "odd.png"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as listener:
                monkeypatch.chdir(path.parent)  # a socket's path must be short
                listener.bind(path.name)
        case "device":
            path.symlink_to("/dev/zero")
    found, announced = load(folder, unreadable=0.1)
    assert len(found.images) == 40
    assert f"left out 1 unreadable: ants/odd.png (a {kind}, not a file)" in announced[-1]


def test_circular_links_do_not_recurse(folder: Path) -> None:
    (folder / "ants" / "a").mkdir()
    (folder / "ants" / "a" / "b").symlink_to(folder / "ants")
    (folder / "ants" / "x").symlink_to("y")
    (folder / "ants" / "y").symlink_to("x")
    found, announced = load(folder, unreadable=0.1)
    assert len(found.images) == 40
    assert "left out 2 unreadable: ants/x (Too many levels of symbolic links)" in announced[-1]


def test_deeply_nested_folders_are_read(folder: Path) -> None:
    """Deeper than Python's recursion limit; pytest can't remove such folders, so the test does."""
    deep = str(folder / "bees")
    for _ in range(1500):
        deep += "/d"
        os.mkdir(deep)
    (folder / "bees" / "00.png").rename(f"{deep}/00.png")
    try:
        assert len(load(folder)[0].images) == 40
    finally:
        subprocess.run(["rm", "-rf", folder / "bees"], check=True)


def test_files_that_vanish_during_reading_are_unreadable(folder: Path) -> None:
    source = image_folder(DataSpec(source="folder", path=str(folder)), None)
    (folder / "bees" / "07.png").unlink()
    batches = list(decode_all(source.open().items, NATIVE))
    assert sum(len(batch.images) for batch in batches) == 39
    message = "bees/07.png (No such file or directory)"
    assert [line for batch in batches for line in batch.unreadable] == [message]


@pytest.mark.parametrize("name", ["no\0thing", "~nobody-at-all/x", "n" * 300])
@pytest.mark.parametrize("source", ["folder", "idx", "npz", "parquet", "huggingface"])
def test_impossible_paths_are_refused(name: str, source: str) -> None:
    assert refused(Path(name), source=source).startswith("data.path: ")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


BOMB = zlib.compress(bytes(3_000_000))
PNG_METADATA: dict[str, Callable[[bytes], bytes]] = {
    "text": lambda png: png[:33] + chunk(b"zTXt", b"prompt\0\0" + BOMB) + png[33:],
    "international text": lambda png: png[:33] + chunk(b"iTXt", b"a\0\1\0\0\0" + BOMB) + png[33:],
    "profile": lambda png: png[:33] + chunk(b"iCCP", b"a\0\0" + BOMB) + png[33:],
    "a profile of another kind": lambda png: png[:33] + chunk(b"iCCP", b"a\0\7") + png[33:],
    "a wrong checksum": lambda png: png[:33] + chunk(b"tEXt", b"a\0b")[:-1] + b"?" + png[33:],
    "a short size": lambda png: png[:33] + chunk(b"pHYs", b"1") + png[33:],
    "text behind the pixels": lambda png: png[:-12] + chunk(b"zTXt", b"a\0\0" + BOMB) + png[-12:],
    "text that is cut off": lambda png: png[:-12] + chunk(b"tEXt", b"a\0" + bytes(99))[:50],
    "an animation": lambda png: png[:33] + chunk(b"acTL", b"1") + png[33:],
}


@pytest.mark.parametrize("kind", PNG_METADATA)
def test_a_png_is_not_refused_for_its_metadata(kind: str) -> None:
    values = noise(32, 32, 4)
    png = encoded(Image.fromarray(values), "PNG")
    found = decode_image(PNG_METADATA[kind](png), NATIVE)
    np.testing.assert_array_equal(found, decode_image(png, NATIVE))


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


JPEG_METADATA = {
    "no EXIF": segment(0xE1, b"Exif\0\0"),
    "EXIF twice": segment(0xE1, b"Exif\0\0Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"),
    "EXIF of anything": segment(0xE1, b"Exif\0\0" + bytes(range(7, 40))),
    "EXIF that is cut off": segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\x09\0\x12\x01\x03\0"),
    "EXIF in a circle": segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\1\0\x69\x87\4\0\1\0\0\0\x08\0\0\0"),
    "a short profile": segment(0xE2, b"ICC_PROFILE\0"),
    "Photoshop's": segment(0xED, b"Photoshop 3.0\x008BIM\4"),
    "XMP": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta tiff:Orientation='\xff'"),
    "a filled comment": b"\xff\xff\xff" + segment(0xFE, b"\xff\xfe"),
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # decode_batch ignores it as well
@pytest.mark.parametrize("kind", JPEG_METADATA)
def test_a_jpeg_is_not_refused_for_its_metadata(kind: str) -> None:
    jpeg = encoded(Image.fromarray(noise(32, 32, 3)), "JPEG")
    found = decode_image(jpeg[:2] + JPEG_METADATA[kind] + jpeg[2:], NATIVE)
    np.testing.assert_array_equal(found, decode_image(jpeg, NATIVE))


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_orientation_outlasts_damaged_metadata(form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(noise(32, 32, 3))
    whole = encoded(image, form, exif=exif)
    bad = PNG_METADATA["text"](whole)
    if form == "JPEG":
        bad = whole[:2] + JPEG_METADATA["a short profile"] + whole[2:]
    turned = decode_image(encoded(image, form), NATIVE)[::-1].swapaxes(0, 1)
    np.testing.assert_array_equal(decode_image(whole, NATIVE), turned)
    np.testing.assert_array_equal(decode_image(bad, NATIVE), turned)


def test_damaged_pixels_are_unreadable_whatever_the_metadata() -> None:
    png = encoded(Image.fromarray(noise(32, 32)), "PNG")
    cut = png[: len(png) // 2]
    changed = png[:-20] + b"?" + png[-19:]
    items = [Item(PNG_METADATA["text"](content), 0, "a") for content in (cut, changed)]
    assert len(decode_batch(items, NATIVE).unreadable) == 2


def test_pixels_at_once_are_bounded_whatever_the_threads() -> None:
    budget, held, most = _Budget(10), [0], [0]

    def decode(amount: int) -> None:
        with budget.take(amount):
            held[0] += amount
            most[0] = max(most[0], held[0])
            time.sleep(0.002)
            held[0] -= amount

    threads = [threading.Thread(target=decode, args=(amount,)) for amount in (10, 4, 6, 7, 3) * 6]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 10


def test_large_images_of_16_bits_are_scaled_as_small_ones() -> None:
    """Large ones are converted in strips, whose edges must not show."""
    values = RANDOM.integers(0, 65536, (1100, 1900), dtype=np.uint16)
    found = decode_image(encoded(Image.fromarray(values), "PNG"), Recipe(1100, "stretch", None))
    by_hand = Image.fromarray(np.round(values / 257).astype(np.uint8))
    expected = np.asarray(by_hand.resize((1100, 1100), Image.Resampling.LANCZOS))
    assert np.abs(found[..., 0].astype(int) - expected).max() <= 1


def idx_folder(path: Path, content: bytes) -> Path:
    path.mkdir()
    (path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content, 1))
    return path


def idx_header(*shape: int) -> bytes:
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx_header(1000, 28000, 28000), "too short for the 784,000,000,016 bytes"),
        (idx_header(20, 10, 10) + bytes(50_000_000), "holds more than the 2,016 bytes"),
        (idx_header(20, 10, 10) + bytes(50), "ends after 66 of the 2,016 bytes"),
        (idx_header(1, 10_000, 10_000) + bytes(10**8), f"at most {MAX_PIXELS:,} pixels each"),
    ],
)
def test_no_more_is_inflated_than_is_claimed(content: bytes, message: str, tmp_path: Path) -> None:
    assert message in refused(idx_folder(tmp_path / "idx", content), source="idx")


@pytest.mark.parametrize("name", ["train-images", "train-images.gz"])
def test_a_pipe_as_idx_file_is_refused(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    message = f"{tmp_path / name}: can't be read: a pipe, not a file"
    assert refused(tmp_path, source="idx") == message


def test_labels_of_a_single_class_are_ignored(tmp_path: Path) -> None:
    folder = idx_folder(tmp_path / "idx", idx_header(20, 10, 10) + noise(2000).tobytes())
    (folder / "train-labels-idx1-ubyte").write_bytes(idx_header(20) + b"\7" * 20)
    found, _ = load(folder, source="idx")
    assert (found.labels, found.classes) == (None, 0)
    np.savez(tmp_path / "a.npz", images=noise(20, 8, 8), labels=np.full(20, 3))
    found, _ = load(tmp_path / "a.npz", source="npz")
    assert (found.labels, found.names) == (None, ())


def npy(header: str) -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(64)


CLAIMS = ["(1000, 28000, 28000)", "(-1, 8, 8)", "(9223372036854775807, 9, 9)", "(1e3,)", "(("]


@pytest.mark.parametrize("shape", CLAIMS)
@pytest.mark.parametrize("zipped", [True, False])
def test_arrays_with_wrong_sizes_are_refused(zipped: bool, shape: str, tmp_path: Path) -> None:
    content = npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}")
    if zipped:
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("images.npy", content)
    else:
        (tmp_path / "a.npz").write_bytes(content)
    assert f"{tmp_path}/a.npz: can't be read: " in refused(tmp_path / "a.npz", source="npz")


def test_an_archive_that_inflates_beyond_memory_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", npy("{}"))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    place = content.index(b"PK\1\2")
    content[place + 24 : place + 28] = struct.pack("<I", 2**32 - 2)  # the uncompressed size
    (tmp_path / "a.npz").write_bytes(content)
    assert "a.npz: " in refused(tmp_path / "a.npz", source="npz")


def test_an_archive_without_arrays_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images", "no array at all")
    assert "images is not an array" in refused(tmp_path / "a.npz", source="npz")


@pytest.mark.parametrize("source", ["npz", "parquet", "huggingface"])
def test_pipes_as_array_or_table_files_are_refused(source: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.parquet")
    message = f"{tmp_path}/a.parquet: can't be read: a pipe, not a file"
    assert refused(tmp_path / "a.parquet", source=source) == message
    if source != "npz":
        assert refused(tmp_path, source=source) == message


def test_memory_order_does_not_change_the_fingerprint(tmp_path: Path) -> None:
    images, labels = noise(20, 8, 8), np.arange(20) % 3
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    np.savez(tmp_path / "b.npz", images=np.asfortranarray(images), labels=labels.astype(">i4"))
    (one, _), (other, _) = (load(tmp_path / f"{name}.npz", source="npz") for name in "ab")
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize("name", ["about.json", "images.npy", "labels.npy"])
def test_irregular_cache_files_are_replaced(name: str, folder: Path, cache: Path) -> None:
    first, _ = load(folder)
    [kept] = [path for path in cache.iterdir() if path.is_dir()]
    for replace in (lambda path: os.mkfifo(path), lambda path: path.symlink_to("/dev/zero")):
        (kept / name).unlink()
        replace(kept / name)
        again, announced = load(folder)
        assert again.fingerprint == first.fingerprint
        assert announced == ["40 images in 2 classes"]


def test_a_pipe_as_cache_lock_is_tolerated(folder: Path, cache: Path) -> None:
    first, _ = load(folder)
    [lock] = cache.glob("*.lock")
    for path in (lock.with_suffix("") / "about.json", lock):
        path.unlink()
    os.mkfifo(lock)
    assert load(folder)[0].fingerprint == first.fingerprint
