"""Record whole learning curves of real trials, on which ``search.py`` compares pruners.

    python benchmarks/record_curves.py --folder curves

Trains the studies below without a pruner and without guards, so that every trial reaches its
last epoch, and writes their curves to ``curves.json``. If interrupted, run it again: it continues
where it stopped. It takes about 40 minutes on two cores.
"""

import argparse
import json
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

from tuner.study.database import Database
from tuner.study.store import StudyStore

CURVES = Path(__file__).parent / "curves.json"
STUDY = """
[study]
trials = {trials}
epochs = {epochs}
seed = {seed}

[data]
source = "mnist5k"

[trial]
width = {width}
learning_rate = {{ low = 1e-4, high = 2e-2, log = true }}
beta1 = {{ low = 0.0, high = 0.9 }}
batch_size = [32, 64, 128]
ema_decay = 0.99

[sampler]
name = "random"

[pruner]
name = "none"
"""
UNGUARDED = """
[guard.loss_ratio]
enabled = false
[guard.variance_ratio]
enabled = false
[guard.class_coverage]
enabled = false
"""
SMALL_EVALUATIONS = """
[metrics]
features = "classifier"
samples = 1000
neighbours = "off"

[pictures]
images = 0
"""
STUDIES = {  # the studies of each set of curves
    "digits_8": [{"width": 8, "epochs": 27, "trials": 24, "seed": 8}],
    "digits_16": [
        {"width": 16, "epochs": 9, "trials": 24, "seed": 16},
        {"width": 16, "epochs": 9, "trials": 12, "seed": 17},
    ],
}


def name_of(study: dict[str, int]) -> str:
    return f"digits_{study['width']}_{study['seed']}"


def record(study: dict[str, int], folder: Path) -> None:
    """Run one of the studies to its end."""
    file = folder / f"{name_of(study)}.toml"
    file.write_text(STUDY.format(**study) + UNGUARDED + SMALL_EVALUATIONS)
    places = ["--storage", storage(folder), "--artifacts", str(folder / "artifacts")]
    subprocess.run([sys.executable, "-m", "tuner.cli", "sweep", str(file), *places], check=True)


def storage(folder: Path) -> str:
    return f"sqlite:///{folder / 'curves.db'}"


def curves_of(name: str, database: Database) -> list[dict[str, Any]]:
    """The curves of a study: FID after each epoch, None where it was not finite, and seconds."""
    return [
        {
            "params": trial.params,
            "fid": [report.fid and round(report.fid, 3) for report in trial.reports],
            "seconds": [round(report.seconds, 3) for report in trial.reports],
        }
        for trial in StudyStore(database, name).trials()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="folder for the studies")
    folder: Path = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for study in chain.from_iterable(STUDIES.values()):
        record(study, folder)
    database = Database(storage(folder))
    curves = {
        name: [curve for study in studies for curve in curves_of(name_of(study), database)]
        for name, studies in STUDIES.items()
    }
    CURVES.write_text(json.dumps(curves) + "\n")


if __name__ == "__main__":
    main()
