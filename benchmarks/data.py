"""How fast image files are decoded, by one thread and by more, and how fast a second start is.

Makes its own pictures in a temporary folder: noise over smooth colours, so that files are as large
as photographs are. ``python benchmarks/data.py --listing 1000000`` lists so many files instead.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from tuner.data import load_images
from tuner.data.decoding import Recipe, cores, decoded
from tuner.data.listing import image_folder
from tuner.places import IMAGES_VARIABLE
from tuner.spec import DataSpec

# What they are like; height, width, images, the files' ending.
KINDS = {
    "faces (JPEG, 178 x 218)": (218, 178, 3000, "jpg"),
    "photographs (JPEG, 512 x 512)": (512, 512, 500, "jpg"),
    "icons (PNG, 32 x 32)": (32, 32, 5000, "png"),
}
LONG_AGO = 1_700_000_000  # seconds since 1970; what is new is not kept


def make(folder: Path, height: int, width: int, count: int, suffix: str) -> None:
    """Write the pictures."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(count):
        low = random.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(low).resize((width, height), Image.Resampling.BICUBIC))
        noisy = smooth + random.integers(-12, 13, smooth.shape)
        path = folder / f"{number:05}.{suffix}"
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        os.utime(path, (LONG_AGO, LONG_AGO))


def seconds(run: Callable[[], object], rounds: int) -> float:
    """The median of several runs."""
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def decode(spec: DataSpec, threads: int) -> None:
    items = image_folder(spec, None)[1].open().items
    for _ in decoded(items, Recipe(spec.size, "crop", None), threads):
        pass


def measure(rounds: int) -> None:
    print(f"| images | 1 thread | {cores()} threads | first start | second start |")
    print("| --- | --- | --- | --- | --- |")
    for place, (name, kind) in enumerate(KINDS.items()):
        with tempfile.TemporaryDirectory() as folder:
            os.environ[IMAGES_VARIABLE] = f"{folder}/cache"
            make(Path(folder) / str(place), *kind)
            spec = DataSpec(source="folder", path=f"{folder}/{place}", size=64)
            numbers = (1, cores())
            speeds = [kind[2] / seconds(partial(decode, spec, n), rounds) for n in numbers]
            starts = [seconds(partial(load_images, spec), 1) for _ in range(2)]
        cells = [*(f"{speed:,.0f} /s" for speed in speeds), *(f"{start:.2f} s" for start in starts)]
        print(f"| {name} | {' | '.join(cells)} |")


def measure_listing(count: int) -> None:
    """A folder of that many empty files in ten classes: they need not be read to be listed."""
    with tempfile.TemporaryDirectory() as folder:
        for kind in range(10):
            (Path(folder) / str(kind)).mkdir()
            for number in range(count // 10):
                os.close(os.open(f"{folder}/{kind}/{number:07}.jpg", os.O_CREAT | os.O_WRONLY))
        spec = DataSpec(source="folder", path=folder)
        print(f"{count:,} files listed in {seconds(partial(image_folder, spec, None), 3):.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--listing", type=int, metavar="FILES")
    options = parser.parse_args()
    if options.listing:
        measure_listing(options.listing)
    else:
        measure(options.rounds)


if __name__ == "__main__":
    main()
