"""Speed of decoding image files with one and with several threads, and of two successive starts.

    python benchmarks/data.py [--rounds 3]
    python benchmarks/data.py --listing 1000000

Draws its own pictures in a temporary folder: noise over smooth colours, which makes files as large
as those of photographs. ``--listing`` measures listing that many files instead.
"""

import os
import statistics
import tempfile
import timeit
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import typer
from PIL import Image

from tuner.data import load_images
from tuner.data.decoding import Recipe, cores, decode_all
from tuner.data.folders import image_folder
from tuner.environment import IMAGES_VARIABLE
from tuner.spec.data import DataSpec

KINDS = {  # height, width, number of images, suffix
    "faces (JPEG, 178 x 218)": (218, 178, 3000, "jpg"),
    "photographs (JPEG, 512 x 512)": (512, 512, 500, "jpg"),
    "icons (PNG, 32 x 32)": (32, 32, 5000, "png"),
}
LONG_AGO = 1_700_000_000  # seconds since 1970; new files are not cached


def write_pictures(folder: Path, height: int, width: int, count: int, suffix: str) -> None:
    """Write ``count`` pictures of noise over smooth colours."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(count):
        low = random.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(low).resize((width, height), Image.Resampling.BICUBIC))
        noisy = smooth + random.integers(-12, 13, smooth.shape)
        path = folder / f"{number:05}.{suffix}"
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        os.utime(path, (LONG_AGO, LONG_AGO))


def median_seconds(run: Callable[[], object], rounds: int) -> float:
    """The median time of ``rounds`` runs."""
    return statistics.median(timeit.repeat(run, number=1, repeat=rounds))


def decode(spec: DataSpec, threads: int) -> None:
    items = image_folder(spec, None).open().items
    for _ in decode_all(items, Recipe(spec.size, "crop", None), threads):
        pass


def measure(rounds: int) -> None:
    print(f"| images | 1 thread | {cores()} threads | first start | second start |")
    print("| --- | --- | --- | --- | --- |")
    for name, (height, width, count, suffix) in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            os.environ[IMAGES_VARIABLE] = f"{folder}/cache"
            write_pictures(Path(folder) / "images", height, width, count, suffix)
            spec = DataSpec(source="folder", path=f"{folder}/images", size=64)
            times = [median_seconds(partial(decode, spec, n), rounds) for n in (1, cores())]
            starts = [median_seconds(partial(load_images, spec), 1) for _ in range(2)]
        speeds = (f"{count / seconds:,.0f} /s" for seconds in times)
        cells = [*speeds, *(f"{start:.2f} s" for start in starts)]
        print(f"| {name} | {' | '.join(cells)} |")


def measure_listing(count: int) -> None:
    """Time listing ``count`` empty files in ten classes; listing does not read them."""
    with tempfile.TemporaryDirectory() as folder:
        for kind in range(10):
            (Path(folder) / str(kind)).mkdir()
            for number in range(count // 10):
                os.close(os.open(f"{folder}/{kind}/{number:07}.jpg", os.O_CREAT | os.O_WRONLY))
        spec = DataSpec(source="folder", path=folder)
        seconds = median_seconds(partial(image_folder, spec, None), 3)
        print(f"{count:,} files listed in {seconds:.2f} s")


def main(rounds: int = 3, listing: int = 0) -> None:
    if listing:
        measure_listing(listing)
    else:
        measure(rounds)


if __name__ == "__main__":
    typer.run(main)
