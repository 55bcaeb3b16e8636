"""Pruners compared on whole learning curves: time to the best configuration, and lost winners.

    make bench-search
    python benchmarks/search.py --curves benchmarks/curves.json --orders 200

Replays the recorded curves (``record_curves.py``) and synthetic ones on 1, 4 and 16 simulated
workers, in many orders of the trials. Trains nothing. A few minutes on two cores.

A synthetic trial has the FID (a + 300 exp(-t / tau)) (1 + 0.04 z) after epoch t, with z from a
normal distribution. Its final level a is uniform in 20 to 100, tau is log-uniform in 1 to 8 epochs.
They are independent, or tied by a Gaussian copula with correlation 0.5 or -0.7. With the latter,
trials that start slowly win: the curves cross. An epoch takes 0.5 to 1.5 s, the same for all of a
trial. Every order has its own curves; the seeds are fixed.
"""

import argparse
import functools
import json
import math
import os
import random
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from record_curves import CURVES
from scipy.stats import norm

from tuner.spec import pruners as pruner_sections
from tuner.spec.loading import parse_spec
from tuner.spec.pruners import PrunerSpec
from tuner.spec.study import StudySpec
from tuner.study.curves import Curve, rank_correlations, winner_of
from tuner.study.replay import pruner_text
from tuner.study.simulation import Simulated, simulate

WORKERS = (1, 4, 16)
CLOSE = 1.01  # times the best final value
EARLY = 1 / 8
FAMILIES = {  # correlations of the final level with tau
    "synthetic, aligned": 0.5,
    "synthetic, independent": 0.0,
    "synthetic, crossing": -0.7,
}
RANKED_ORDERS = 20  # for the mean rank correlations
SYNTHETIC_EPOCHS = 27


class Curves(NamedTuple):
    """A set of curves; ``draw`` returns them in the order with the given number."""

    name: str
    epochs: int
    draw: Callable[[int], list[Curve]]


class Measured(NamedTuple):
    """One order, in units of the mean full trial.

    Device time is elapsed time by workers, so a worker that waits counts.
    """

    reached: float  # device time until a value is within 1% of the best final one; may be infinite
    total: float  # device time of the whole study
    lost: bool  # the best trial is stopped early
    regret: float  # the best value found over the best final one, less 1
    early: float  # the same after an eighth of the full trials; infinite if there is no value yet


def curve_of(
    trial: int, fids: Sequence[float | None], seconds: Sequence[float], last: int
) -> Curve:
    """A curve of the best values so far, as a study reports them to its pruner."""
    finite = {epoch: fid for epoch, fid in enumerate(fids, 1) if fid is not None}
    best = dict(zip(finite, accumulate(finite.values(), min), strict=True))
    state = "COMPLETE" if last in finite else "PRUNED"
    return Curve(trial, state, best, dict(enumerate(seconds, 1)))


def recorded(file: Path, equal: bool = False) -> list[Curves]:
    """The curves in a file of ``record_curves.py``; ``equal`` makes all epochs equally long."""
    studies = {name: rows for name, rows in json.loads(file.read_text()).items() if rows}
    for rows in studies.values():
        for row in rows if equal else ():
            row["seconds"] = [1.0] * len(row["seconds"])
    return [_shuffled(name, rows) for name, rows in studies.items()]


def _shuffled(name: str, rows: list[dict[str, Any]]) -> Curves:
    epochs = max(len(row["fid"]) for row in rows)
    curves = [curve_of(i, row["fid"], row["seconds"], epochs) for i, row in enumerate(rows)]
    return Curves(name, epochs, lambda order: random.Random(order).sample(curves, len(curves)))


def synthetic(name: str, trials: int) -> Curves:
    return Curves(name, SYNTHETIC_EPOCHS, lambda order: family(FAMILIES[name], trials, order))


def family(correlation: float, trials: int, seed: int) -> list[Curve]:
    rng = np.random.default_rng(seed)
    first, other = rng.normal(size=trials), rng.normal(size=trials)
    noise = rng.normal(size=(trials, SYNTHETIC_EPOCHS))
    second = correlation * first + math.sqrt(1 - correlation**2) * other
    level, tau = 20 + 80 * norm.cdf(first)[:, None], 8 ** norm.cdf(second)[:, None]
    epochs = np.arange(1, SYNTHETIC_EPOCHS + 1)
    fids = (level + 300 * np.exp(-epochs / tau)) * (1 + 0.04 * noise)
    seconds = rng.uniform(0.5, 1.5, trials)
    return [
        curve_of(trial, fids[trial].tolist(), [seconds[trial]] * SYNTHETIC_EPOCHS, SYNTHETIC_EPOCHS)
        for trial in range(trials)
    ]


def pruners(epochs: int) -> list[PrunerSpec]:
    """The compared pruners, with their defaults; the last has Hyperband's number of brackets."""
    asha = pruner_sections.AshaPruner()
    brackets = len(asha.rungs(epochs, every=1)) + 1
    return [
        pruner_sections.NoPruner(),
        pruner_sections.MedianPruner(),
        pruner_sections.SuccessiveHalvingPruner(),
        asha,
        pruner_sections.HyperbandPruner(),
        *(pruner_sections.AshaPruner(brackets=n) for n in sorted({2, brackets})),
    ]


def study(epochs: int, trials: int) -> StudySpec:
    return parse_spec({"study": {"name": "s", "epochs": epochs, "trials": trials}}, "search.py")


def measure(curves: list[Curve], found: Simulated, workers: int) -> Measured:
    winner = winner_of(curves)
    assert winner is not None
    values = {curve.trial: curve.values for curve in curves}
    unit = statistics.fmean(sum(curve.seconds.values()) for curve in curves if curve.whole)
    best = reached = early = math.inf
    for trial, epoch, end in found.epochs:
        best = min(best, values[trial].get(epoch, math.inf))
        if best <= CLOSE * winner.final and reached == math.inf:
            reached = end
        if end * workers <= EARLY * len(curves) * unit:
            early = best
    total, lost = found.epochs[-1].end, winner.trial in found.ends
    scale, final = workers / unit, winner.final
    return Measured(reached * scale, total * scale, lost, best / final - 1, early / final - 1)


def table(curves: Curves, orders: int) -> str:
    """A Markdown table: how the pruners do on these curves."""
    first = curves.draw(0)
    headings = ["workers", "pruner", "full trials to within 1%", "/ none", "never", "best lost"]
    headings += [f"excess after {EARLY * len(first):.1f} full trials", "at the end", "whole study"]
    rows = [f"| {' | '.join(headings)} |", "| --- " * len(headings) + "|"]
    spec = study(curves.epochs, len(first))
    for workers in WORKERS:
        plain: list[Measured] = []
        for pruner in pruners(curves.epochs):
            found = []
            for order in range(orders):
                drawn = curves.draw(order)
                found.append(measure(drawn, simulate(drawn, pruner, spec, workers), workers))
            plain = plain or found  # the first pruner is none
            rows.append(f"| {workers} | {pruner_text(pruner)} | {_cells(found, plain)} |")
    return "\n".join([*_about(curves, first), "", *rows])


def _about(curves: Curves, drawn: list[Curve]) -> list[str]:
    """A heading, and how well the ranks at the rungs agree with the final ones."""
    rungs = pruner_sections.AshaPruner().rungs(curves.epochs, every=1)
    orders = [rank_correlations(curves.draw(order)) for order in range(RANKED_ORDERS)]
    shown = []
    for rung in rungs:
        ranks = [one.spearman or 0.0 for order in orders for one in order if one.epoch == rung]
        shown.append(f"{statistics.fmean(ranks):.2f} after epoch {rung}")
    return [
        f"### {curves.name}: {len(drawn)} trials of {curves.epochs} epochs",
        "",
        f"{sum(curve.whole for curve in drawn)} reach the last epoch. Rank correlation (Spearman) "
        f"with the final values: {', '.join(shown)}.",
    ]


def _cells(found: list[Measured], plain: list[Measured]) -> str:
    reached = [one.reached for one in found]
    ratio = _quantile(reached, 0.5) / _quantile([one.reached for one in plain], 0.5)
    total = statistics.fmean(one.total for one in found)
    share = total / statistics.fmean(one.total for one in plain)
    cells = [
        f"{_text(reached, 0.5)} ({_text(reached, 0.1)} to {_text(reached, 0.9)})",
        f"{ratio:.2f}" if math.isfinite(ratio) else "-",
        str(sum(map(math.isinf, reached))),
        f"{statistics.fmean(one.lost for one in found):.0%}",
        _share(_quantile([one.early for one in found], 0.5)),
        _share(_quantile([one.regret for one in found], 0.5)),
        f"{total:.1f} ({share:.0%})",
    ]
    return " | ".join(cells)


def _text(values: list[float], share: float) -> str:
    found = _quantile(values, share)
    return f"{found:.1f}" if math.isfinite(found) else "never"


def _share(value: float) -> str:
    return f"{value:.0%}" if math.isfinite(value) else "-"


def _quantile(values: list[float], share: float) -> float:
    """The smallest value that at least this share of the values don't exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def table_of(name: str, options: argparse.Namespace) -> str:
    if name in FAMILIES:
        return table(synthetic(name, options.trials), options.orders)
    [found] = [one for one in recorded(options.curves, options.equal) if one.name == name]
    return table(found, options.orders)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--curves", type=Path, default=CURVES, help="file of recorded curves")
    parser.add_argument("--orders", type=int, default=200, help="number of trial orders")
    parser.add_argument("--trials", type=int, default=81, help="trials of a synthetic study")
    parser.add_argument("--equal", action="store_true", help="recorded epochs are equally long")
    options = parser.parse_args()
    names = [one.name for one in recorded(options.curves)] + list(FAMILIES)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for found in pool.map(functools.partial(table_of, options=options), names):
            print(found, end="\n\n", flush=True)


if __name__ == "__main__":
    main()
