"""FID of every loss on Fashion-MNIST with the same budget, for several seeds.

    python benchmarks/losses.py [--epochs 1] [--seeds 3] [--width 8] [--data FOLDER]

All train the tutorial's DCGAN with Adam at the same learning rate on the same batches; each loss
has only the settings that it needs (see NEEDS). FID uses classifier features of 2,000 samples and
can be compared only within the table. The table is not a ranking: a loss may do better at other
settings.
"""

import statistics
import time
from typing import Any

import typer
from training import temporary_evaluator, train

from tuner.spec.loading import parse_spec
from tuner.spec.study import StudySpec
from tuner.spec.traits import LOSSES

FASHION = "/usr/share/datasets/fashion-mnist"  # where Debian's package puts it
NEEDS: dict[str, dict[str, Any]] = {
    "wasserstein": {"weight_clip": 0.1},
    "wasserstein_gp": {"gradient_penalty": 10.0},
    "dragan": {"gradient_penalty": 10.0},
    "relativistic": {"r1": 0.1, "r2": 0.1},
}


def spec_for(loss: str, epochs: int, width: int, data: str) -> StudySpec:
    trial = {"width": width, "loss": loss, "learning_rate": 5e-4, "dropout": 0.0}
    table = {
        "study": {"epochs": epochs},
        "data": {"source": "idx", "path": data},
        "trial": trial | NEEDS.get(loss, {}),
        "pruner": {"name": "none"},
        "metrics": {"samples": 2000},
    }
    return parse_spec(table, "benchmark")


def main(epochs: int = 1, seeds: int = 3, width: int = 8, data: str = FASHION) -> None:
    specs = {loss: spec_for(loss, epochs, width, data) for loss in LOSSES}
    evaluator = temporary_evaluator(next(iter(specs.values())))
    print("| loss | mean FID | FID by seed | seconds of training |")
    print("| --- | --- | --- | --- |")
    for loss, spec in specs.items():
        began = time.perf_counter()
        fids = [train(evaluator, spec, seed)[-1].fid for seed in range(seeds)]
        seconds = (time.perf_counter() - began) / seeds
        known = [fid for fid in fids if fid is not None]
        mean = f"{statistics.mean(known):.1f}" if known else "-"
        each = ", ".join("-" if fid is None else f"{fid:.1f}" for fid in fids)
        print(f"| {loss} | {mean} | {each} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
