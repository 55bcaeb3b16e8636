"""What pictures, notes and plots cost a worker: the time that its training thread spends on them.

Runs the quickstart study with a few trials on the embedded database, and adds up how long the calls
take that keep pictures, wait for them, note and plot, beside how long the study's epochs took. What
another thread does meanwhile (PNG, writing) shows in `sweep` alone: the time of the same epochs
with `pictures.images = 0`, in turns.

    python benchmarks/pictures.py --trials 3 --rounds 3
"""

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tuner
from tuner.run import worker
from tuner.run.trialrun import TrialRun

CALLS: dict[Any, tuple[str, ...]] = {
    TrialRun: ("_show", "new_pictures", "last_pictures", "note"),
    worker: ("refresh_plots",),
}
spent: dict[str, float] = {}


def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def run(*words: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(*words, **named)
        finally:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - began

    return run


def sweep(images: int, trials: int, folder: Path) -> float:
    """Seconds that the epochs of a study took, but for each trial's first, which compiles."""
    spec = tuner.load_spec(Path(__file__).parents[1] / "studies/quickstart.toml")
    changed = {
        "study": spec.study.model_copy(update={"trials": trials}),
        "pictures": spec.pictures.model_copy(update={"images": images, "first": 10**6}),
        "pruner": {"name": "none"},
        "baseline": (),
    }
    spec = type(spec).model_validate(spec.model_dump() | {k: _plain(v) for k, v in changed.items()})
    store = tuner.sweep(spec, storage=f"sqlite:///{folder}/studies.db", artifacts=folder / "files")
    reports = [report for trial in store.trials() for report in trial.reports if report.epoch > 1]
    return sum(report.train_seconds + report.evaluate_seconds for report in reports)


def _plain(value: Any) -> Any:
    return value.model_dump() if hasattr(value, "model_dump") else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for kind, names in CALLS.items():
        for name in names:
            setattr(kind, name, timed(name, getattr(kind, name)))
    found: dict[int, list[float]] = {36: [], 0: []}
    shares = []
    for _ in range(options.rounds):
        for images, seconds in found.items():
            spent.clear()
            with tempfile.TemporaryDirectory() as folder:
                seconds.append(sweep(images, options.trials, Path(folder)))
            if images:
                shares.append(sum(spent.values()) / seconds[-1])
                parts = ", ".join(f"{name} {part:.3f} s" for name, part in spent.items())
                print(f"of {seconds[-1]:.1f} s: {parts}", flush=True)
    ratio = statistics.median(found[36]) / statistics.median(found[0])
    print(f"the training thread's share: median {statistics.median(shares):.2%}")
    print(f"epochs with a picture each / without: {ratio:.3f} ({found})")


if __name__ == "__main__":
    main()
