"""A picture of seed noise: a small search on digits whose best configurations are confirmed.

    python benchmarks/seeds_picture.py FOLDER --out docs/images/seeds.png

Runs the study in the folder first; if interrupted, run it again. It trains about 200 epochs, which
should take 10 to 20 minutes on two cores. Needs kaleido and a Chromium.
"""

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from record_curves import SMALL_EVALUATIONS

from tuner.study.confirmation import Result
from tuner.study.database import Database
from tuner.study.store import StudyStore
from tuner.views.figures import as_picture
from tuner.views.style import new_figure

STUDY = """
[study]
name = "seeds"
trials = 12
epochs = 9

[data]
source = "mnist5k"

[trial]
width = 8
learning_rate = { low = 5e-4, high = 1e-2, log = true }
beta1 = { low = 0.0, high = 0.5 }
batch_size = 64
ema_decay = 0.99

[[baseline]]
learning_rate = 2e-3
beta1 = 0.5

[sampler]
name = "random"

[confirm]
top = 3
seeds = 5
"""
SEARCH, RUN, MEAN = "#E69F00", "#56B4E9", "#0072B2"


def run(folder: Path) -> StudyStore:
    """Run the study, or what is left of it."""
    file = folder / "seeds.toml"
    file.write_text(STUDY + SMALL_EVALUATIONS)
    storage = f"sqlite:///{folder / 'seeds.db'}"
    places = ["--storage", storage, "--artifacts", str(folder / "artifacts")]
    subprocess.run([sys.executable, "-m", "tuner.cli", "sweep", str(file), *places], check=True)
    return StudyStore(Database(storage), "seeds")


def draw(store: StudyStore) -> Any:
    found = store.confirmation(reports=True).configurations
    figure = new_figure("The best configurations of a search, trained again with fresh seeds", 420)
    figure.update_xaxes(title="FID")
    results = [one for one in reversed(store.confirmed()) if one.value.n > 1]
    names = [_name(one) for one in results]
    whole = [one for one in results if one.trial.state == "COMPLETE"]  # others trained for less
    runs = [
        (_name(one), value)
        for one in results
        for value in found[one.trial.number].values().values()
        if value is not None
    ]
    searched = {"color": SEARCH, "symbol": "diamond-open", "size": 11, "line": {"width": 2}}
    figure.add_scatter(
        x=[one.trial.value for one in whole],
        y=[_name(one) for one in whole],
        mode="markers",
        name="value in the search, if trained to the end",
        marker=searched,
    )
    figure.add_scatter(
        x=[value for _, value in runs],
        y=[name for name, _ in runs],
        mode="markers",
        name="a fresh seed",
        marker={"color": RUN, "size": 8},
    )
    figure.add_scatter(
        x=[one.value.mean for one in results],
        y=names,
        mode="markers",
        name="mean of the seeds and its 95% interval",
        marker={"color": MEAN, "symbol": "line-ns-open", "size": 16, "line": {"width": 3}},
        error_x={
            "type": "data",
            "array": [(one.value.high or 0) - one.value.mean for one in results],
            "color": MEAN,
        },
    )
    return figure


def _name(result: Result) -> str:
    trial = result.trial
    return f"trial {trial.number}{' (baseline)' if trial.baseline else ''}"


def main(
    folder: Path, out: Annotated[Path, typer.Option(help="file to write, .png or .svg")]
) -> None:
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    out.write_bytes(as_picture(draw(run(folder)), out.suffix[1:]))


if __name__ == "__main__":
    typer.run(main)
