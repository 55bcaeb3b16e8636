"""Draw samples of every network and every loss after the same small budget, for docs/gallery.md.

    nice -n 10 python benchmarks/gallery.py [--slow]

Each cell of the page is a study of one trial, NETWORK-LOSS-DATA, in the default database (or that
of TUNER_STORAGE). After each, its picture and the page's tables are written. An interrupted run
continues where it stopped; to train a cell again, delete its study. ``--slow`` adds the networks
that take much longer on a CPU.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import typer
from losses import FASHION, NEEDS
from PIL import Image

import tuner
from tuner.data import load_images
from tuner.gan.state import size_of
from tuner.spec.data import DataSpec
from tuner.spec.guard import GuardSection
from tuner.spec.loading import parse_spec
from tuner.spec.study import StudySpec
from tuner.spec.traits import LOSSES, NETWORKS
from tuner.views.images import grid, picture

PAGE = Path(__file__).parents[1] / "docs/gallery.md"
PICTURES = PAGE.with_suffix("")
SUBSET = Path("tuner-data/fashion-5000.npz")
SOURCES: dict[str, dict[str, Any]] = {
    "digits": {"source": "mnist5k"},
    "fashion": {"source": "npz", "path": str(SUBSET)},
}
EPOCHS = 6  # of 5,000 images
SETTINGS = {
    "latent_dim": 64,
    "batch_size": 32,
    "learning_rate": 1e-3,
    "dropout": 0.0,
    "ema_decay": 0.99,
}
SLOW = ("r3gan",)
WIDTH = 8
WIDTHS = {"sndcgan": 6, "resnet": 4, "r3gan": 1}  # which compute much more at the same width
NETWORK, LOSS = "dcgan", "non_saturating"  # of the cells that vary the other one
COUNT, COLUMNS, GREYS = 32, 8, 16  # of a picture


class Cell(NamedTuple):
    network: str
    loss: str
    data: str

    @property
    def name(self) -> str:
        """The name of its study and picture."""
        return f"{self.network}-{self.loss}-{self.data}"


class Result(NamedTuple):
    """The entry of a trained cell in the page."""

    text: str  # with the picture
    parameters: str = ""


def cells(slow: bool) -> Iterator[Cell]:
    """The cells to train, those that take longest last."""
    for loss in LOSSES:
        yield from (Cell(NETWORK, loss, data) for data in SOURCES)
    for network in NETWORKS:
        if network != NETWORK and (slow or network not in SLOW):
            yield from (Cell(network, LOSS, data) for data in SOURCES)


def spec_for(cell: Cell) -> StudySpec:
    networks = {"generator": cell.network, "discriminator": cell.network}
    width = WIDTHS.get(cell.network, WIDTH)
    table = {
        "study": {"name": cell.name, "trials": 1, "epochs": EPOCHS, "value": "last"},
        "data": SOURCES[cell.data],
        "trial": {**networks, "width": width, "loss": cell.loss, **SETTINGS}
        | NEEDS.get(cell.loss, {}),
        "pruner": {"name": "none"},
        "guard": {name: {"enabled": False} for name in GuardSection.model_fields},
        "metrics": {"every": EPOCHS, "neighbours": "off"},
        "pictures": {"images": 0},
    }
    return parse_spec(table, cell.name)


def save(images: Any, name: str) -> None:
    """Write a grid of uint8 images (n, h, w, 1) with few greys, for a small file."""
    pixels = picture(grid(images, columns=COLUMNS, scale=1))
    few = pixels.quantize(GREYS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    few.save(PICTURES / f"{name}.png", optimize=True)


def write_subset() -> None:
    """Write as many images of Fashion-MNIST as there are digits."""
    found = load_images(DataSpec(source="idx", path=FASHION))
    assert found.labels is not None
    SUBSET.parent.mkdir(exist_ok=True)
    np.savez_compressed(SUBSET, images=found.images[:5000, ..., 0], labels=found.labels[:5000])


def run(cell: Cell) -> Result:
    """Train the cell, or read it from the database, and write its picture."""
    trial = tuner.sweep(spec_for(cell)).trial(0)
    if trial.artifact is None:
        return Result(f"{trial.state.lower()}: {trial.reason}")
    generator = tuner.open_study(cell.name).trial(0).generator()
    save(generator(COUNT, seed=0), cell.name)
    seconds = sum(report.train_seconds for report in trial.reports)
    size = size_of(generator.program)
    text = f"{shown(cell.name)}<br>FID {trial.value:.1f}, {seconds:.0f} s"
    return Result(text, f"{size.generator:,} + {size.discriminator:,} parameters")


def shown(name: str) -> str:
    return f"![{name}]({PICTURES.name}/{name}.png)"


def tables(done: dict[Cell, Result]) -> str:
    """The page's tables, with the cells that are done."""
    real = " | ".join(shown(f"real-{data}") for data in SOURCES)
    head = f"digits | Fashion-MNIST |\n| --- | --- | --- |\n| real images | {real} |"
    parts = ["## Networks\n", f"| network | {head}"]
    parts += [row(network, Cell(network, LOSS, ""), done) for network in NETWORKS]
    parts += ["\n## Losses\n", f"| loss | {head}"]
    parts += [row(loss, Cell(NETWORK, loss, ""), done) for loss in LOSSES]
    return "\n".join(parts)


def row(title: str, cell: Cell, done: dict[Cell, Result]) -> str:
    """A row of a table: ``cell`` with each of the data."""
    found = [done.get(cell._replace(data=data), Result("not trained")) for data in SOURCES]
    settings = {"width": WIDTHS.get(cell.network, WIDTH), **NEEDS.get(cell.loss, {})}
    parts = [f"`{title}`", *(f"{key} {value}" for key, value in settings.items())]
    first = "<br>".join([*parts, found[0].parameters]).removesuffix("<br>")
    return f"| {first} | {' | '.join(result.text for result in found)} |"


def write_page(done: dict[Cell, Result]) -> None:
    """Replace the tables in the page."""
    marked = re.compile(r"(?<=<!-- pictures -->\n).*(?=<!-- end -->)", re.DOTALL)
    text = f"\n{tables(done)}\n\n"
    PAGE.write_text(marked.sub(lambda _: text, PAGE.read_text(), count=1))


def main(slow: bool = False) -> None:
    PICTURES.mkdir(exist_ok=True)
    if not SUBSET.exists():
        write_subset()
    for data, source in SOURCES.items():
        real = load_images(DataSpec(**source)).images
        save(real[:: len(real) // COUNT][:COUNT], f"real-{data}")
    done: dict[Cell, Result] = {}
    for number, cell in enumerate(todo := list(cells(slow)), 1):
        print(f"{number} of {len(todo)}: {cell.name}", flush=True)
        done[cell] = run(cell)
        write_page(done)


if __name__ == "__main__":
    typer.run(main)
