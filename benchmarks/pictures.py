"""The time that a worker's training thread spends on pictures, notes and plots.

    python benchmarks/pictures.py [--trials 3] [--rounds 3]

Runs the quickstart study with a few trials on SQLite, and compares the time of the dashboard
publisher's calls with that of the study's epochs. The work of other threads (encoding PNGs,
writing) shows only in the epochs, which are timed with and without pictures, in alternation.
"""

import functools
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

import tuner
from tuner.dashboard.publishing import DashboardPublisher

CALLS = ("samples", "attributes", "end", "study")
QUICKSTART = Path(__file__).parents[1] / "studies/quickstart.toml"
spent = defaultdict[str, float](float)  # seconds by call


def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def run(*args: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(*args, **options)
        finally:
            spent[name] += time.perf_counter() - began

    return run


def sweep(images: int, trials: int, folder: Path) -> float:
    """Run the study; the seconds of its epochs without each trial's first, which compiles."""
    spec = tuner.load_spec(QUICKSTART)
    table = spec.model_dump() | {"pruner": {"name": "none"}, "baseline": ()}
    table["study"] |= {"trials": trials}
    table["pictures"] |= {"images": images, "first": 10**6}
    spec = type(spec).model_validate(table)
    storage = f"sqlite:///{folder}/studies.db"
    store = tuner.sweep(spec, storage=storage, artifacts=folder / "files", progress=False)
    reports = [report for trial in store.trials() for report in trial.reports if report.epoch > 1]
    return sum(report.train_seconds + report.evaluate_seconds for report in reports)


def main(trials: int = 3, rounds: int = 3) -> None:
    for name in CALLS:
        setattr(DashboardPublisher, name, timed(name, getattr(DashboardPublisher, name)))
    times: dict[int, list[float]] = {36: [], 0: []}  # seconds by images per picture
    shares = []
    for _ in range(rounds):
        for images, seconds in times.items():
            spent.clear()
            with tempfile.TemporaryDirectory() as folder:
                seconds.append(sweep(images, trials, Path(folder)))
            if images:
                shares.append(sum(spent.values()) / seconds[-1])
                parts = ", ".join(f"{name} {part:.3f} s" for name, part in spent.items())
                print(f"of {seconds[-1]:.1f} s: {parts}", flush=True)
    ratio = statistics.median(times[36]) / statistics.median(times[0])
    print(f"the training thread's share: median {statistics.median(shares):.2%}")
    print(f"epochs with a picture each / without: {ratio:.3f} ({times})")


if __name__ == "__main__":
    typer.run(main)
