"""The quickstart's trial in float32 and in bfloat16: FID with several seeds.

    python benchmarks/precision.py [--epochs 4] [--seeds 5] [--width 16]

Both train on the quickstart's images with the same settings and seeds, in turn. Within noise means:
the mean of the differences, seed by seed, is no further from zero than two of its standard errors.
"""

import argparse
import math
import statistics
import tempfile

from tuner.data import load_images
from tuner.run.files import StudyFiles
from tuner.run.lab import Lab
from tuner.run.lane import Lane
from tuner.run.sharing import shared_measures
from tuner.run.stores import open_store
from tuner.spec import StudySpec
from tuner.specfile import parse_spec
from tuner.study.space import trial_config

PRECISIONS = ("float32", "bfloat16")


def spec_for(precision: str, epochs: int, width: int) -> StudySpec:
    trial = {"width": width, "batch_size": 32, "learning_rate": 2e-3, "ema_decay": 0.99}
    table = {
        "study": {"epochs": epochs},
        "trial": trial | {"precision": precision},
        "metrics": {"samples": 2000},
    }
    return parse_spec(table, "benchmark")


def final_fid(lab: Lab, spec: StudySpec, seed: int) -> float:
    """The FID after the last epoch; infinity where a number of the training was not finite."""
    lane = Lane(lab)
    lane.insert(trial_config(spec, {}, seed, lab.premises))
    reports = [lane.run_epoch() for _ in range(spec.study.epochs)]
    fid = reports[-1].fid
    finite = all(report.finite for report in reports)
    return fid if finite and fid is not None else math.inf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--width", type=int, default=16)
    options = parser.parse_args()
    specs = [spec_for(name, options.epochs, options.width) for name in PRECISIONS]
    images = load_images(specs[0].data)
    with tempfile.TemporaryDirectory() as folder:
        files = StudyFiles(open_store(folder), "precision").begin("a token")
        lab = Lab(specs[0], images, *shared_measures(specs[0], images, files, None, print))
        print("| seed | float32 | bfloat16 | difference |\n| --- | --- | --- | --- |")
        differences = []
        for seed in range(options.seeds):
            full, half = (final_fid(lab, spec, seed) for spec in specs)
            differences.append(half - full)
            print(f"| {seed} | {full:.1f} | {half:.1f} | {half - full:+.1f} |", flush=True)
    mean = statistics.mean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    print(f"mean difference {mean:+.1f}, standard error {error:.1f}")


if __name__ == "__main__":
    main()
