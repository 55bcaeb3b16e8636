"""FID of a DCGAN trained in float32 and in bfloat16, for several seeds.

    python benchmarks/precision.py [--epochs 4] [--seeds 5] [--width 16]

Both train on the quickstart's images with the same settings and seeds, in alternation. They agree
within noise if the mean of the differences, seed by seed, is at most two standard errors from zero.
"""

import math
import statistics

import typer
from training import temporary_evaluator, train

from tuner.run.evaluator import Evaluator
from tuner.spec.loading import parse_spec
from tuner.spec.study import StudySpec


def spec_for(precision: str, epochs: int, width: int) -> StudySpec:
    trial = {"width": width, "batch_size": 32, "learning_rate": 2e-3, "ema_decay": 0.99}
    table = {
        "study": {"epochs": epochs},
        "trial": trial | {"precision": precision},
        "metrics": {"samples": 2000},
    }
    return parse_spec(table, "benchmark")


def final_fid(evaluator: Evaluator, spec: StudySpec, seed: int) -> float:
    """The FID after the last epoch; infinity if a weight or loss was not finite."""
    reports = train(evaluator, spec, seed)
    fid = reports[-1].fid
    finite = all(report.finite for report in reports)
    return fid if finite and fid is not None else math.inf


def main(epochs: int = 4, seeds: int = 5, width: int = 16) -> None:
    specs = [spec_for(name, epochs, width) for name in ("float32", "bfloat16")]
    evaluator = temporary_evaluator(specs[0])
    print("| seed | float32 | bfloat16 | difference |\n| --- | --- | --- | --- |")
    differences = []
    for seed in range(seeds):
        full, half = (final_fid(evaluator, spec, seed) for spec in specs)
        differences.append(half - full)
        print(f"| {seed} | {full:.1f} | {half:.1f} | {half - full:+.1f} |", flush=True)
    mean = statistics.mean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    print(f"mean difference {mean:+.1f}, standard error {error:.1f}")


if __name__ == "__main__":
    typer.run(main)
