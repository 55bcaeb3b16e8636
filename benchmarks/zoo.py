"""Every loss on Fashion-MNIST for the same budget: FID, with several seeds.

    python benchmarks/zoo.py [--epochs 1] [--seeds 3] [--width 8] [--data FOLDER]

All run the tutorial's DCGAN with Adam at the same rate and the same batches; each loss has only
what it can't do without (see NEEDS). FID is by the embedded classifier, of 2,000 samples: to be
compared within this table alone. It ranks nothing: a loss may be better at settings of its own.
"""

import argparse
import statistics
import tempfile
import time
from typing import Any

from tuner.data import load_images
from tuner.run.files import StudyFiles
from tuner.run.lab import Lab
from tuner.run.lane import Lane
from tuner.run.sharing import shared_measures
from tuner.run.stores import open_store
from tuner.spec import LOSSES, StudySpec
from tuner.specfile import parse_spec
from tuner.study.space import trial_config

FASHION = "/usr/share/datasets/fashion-mnist"  # where Debian's package puts it
NEEDS: dict[str, dict[str, Any]] = {
    "wasserstein": {"weight_clip": 0.1},
    "wasserstein_gp": {"gradient_penalty": 10.0},
    "dragan": {"gradient_penalty": 10.0},
    "relativistic": {"r1": 0.1, "r2": 0.1},
}


def spec_for(loss: str, options: argparse.Namespace) -> StudySpec:
    trial = {"width": options.width, "loss": loss, "learning_rate": 5e-4, "dropout": 0.0}
    table = {
        "study": {"epochs": options.epochs},
        "data": {"source": "idx", "path": options.data},
        "trial": trial | NEEDS.get(loss, {}),
        "pruner": {"name": "none"},
        "metrics": {"samples": 2000},
    }
    return parse_spec(table, "benchmark")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--data", default=FASHION)
    options = parser.parse_args()
    first = spec_for(LOSSES[0], options)
    images = load_images(first.data)
    with tempfile.TemporaryDirectory() as folder:
        files = StudyFiles(open_store(folder), "zoo").begin("a token")
        lab = Lab(first, images, *shared_measures(first, images, files, None, print))
        print("| loss | FID, mean of the seeds | of each | seconds of training |")
        print("| --- | --- | --- | --- |")
        for loss in LOSSES:
            found, seconds = [], 0.0
            for seed in range(options.seeds):
                lane = Lane(lab)
                lane.insert(trial_config(spec_for(loss, options), {}, seed, lab.premises))
                began = time.perf_counter()
                reports = [lane.run_epoch() for _ in range(options.epochs)]
                seconds += time.perf_counter() - began
                found.append(reports[-1].fid)
            known = [fid for fid in found if fid is not None]
            mean = f"{statistics.mean(known):.1f}" if known else "-"
            each = ", ".join("-" if fid is None else f"{fid:.1f}" for fid in found)
            print(f"| {loss} | {mean} | {each} | {seconds / options.seeds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
