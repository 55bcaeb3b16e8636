"""The best trial that each pruner finds in a real search, with the same number of trained epochs.

    python benchmarks/pruned_sweeps.py sweeps

One study per pruner: random search over learning rate and beta1 of a small DCGAN on 5,000 digits,
the same configurations in the same order, until as many epochs are trained as 12 whole trials have.
All trials have the same batch size, so equal epochs are equal device time, whatever else the
machine does. If interrupted, run it again: it continues. It trains 540 epochs, which
should take about 40 minutes on two cores.

The best trial's value is measured a second time on fresh latents, since the lowest of many noisy
values is too optimistic.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import typer
from record_curves import SMALL_EVALUATIONS, UNGUARDED

PRUNERS = ("none", "median", "successive_halving", "asha", "hyperband")
EPOCHS, WHOLE = 9, 12
STUDY = """
[study]
trials = 400
epochs = {epochs}
seed = 1

[budget]
epochs = {budget}

[data]
source = "mnist5k"

[trial]
width = 8
learning_rate = {{ low = 1e-4, high = 2e-2, log = true }}
beta1 = {{ low = 0.0, high = 0.9 }}
batch_size = 64
ema_decay = 0.99

[sampler]
name = "random"

[pruner]
name = "{pruner}"
"""
HEADS = ("pruner", "trials begun", "whole", "best FID", "on fresh latents", "hours")


def tuner(folder: Path, *words: str) -> str:
    """Run a command on the studies in the folder; its output."""
    places = ["--storage", f"sqlite:///{folder / 'sweeps.db'}"]
    command = [sys.executable, "-m", "tuner.cli", *words, *places]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def search(pruner: str, folder: Path) -> None:
    """Spend the budget, or what is left of it."""
    file, artifacts = folder / f"{pruner}.toml", str(folder / "artifacts")
    study = STUDY.format(pruner=pruner, epochs=EPOCHS, budget=EPOCHS * WHOLE)
    file.write_text(study + UNGUARDED + SMALL_EVALUATIONS)
    tuner(folder, "sweep", str(file), "--name", pruner, "--artifacts", artifacts)


def row(pruner: str, folder: Path) -> str:
    status = json.loads(tuner(folder, "status", pruner, "--json"))
    best = json.loads(tuner(folder, "best", pruner, "--json"))["trial"]
    trials: list[dict[str, Any]] = json.loads(tuner(folder, "trials", pruner, "--json"))
    begun = [trial for trial in trials if trial["reports"]]
    cells = [
        pruner,
        str(len(begun)),
        str(sum(len(trial["reports"]) == EPOCHS for trial in begun)),
        f"{best['value']:.1f}",
        f"{best['fresh']:.1f}",
        f"{status['budget']['spent']['device_hours']:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def main(folder: Path) -> None:
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for pruner in PRUNERS:
        search(pruner, folder)
    print(f"| {' | '.join(HEADS)} |\n{'| --- ' * len(HEADS)}|")
    for pruner in PRUNERS:
        print(row(pruner, folder), flush=True)


if __name__ == "__main__":
    typer.run(main)
