"""How well races choose among candidates whose values depend on the seed: a simulation.

    python benchmarks/confirm.py [--studies 4000] [--correlation 0]

Four candidates have true means 0, 1, 2 and 4 (a baseline), and values with normal noise over seeds.
All methods see the same simulated values. A race with at most five seeds per candidate sets the
number of trainings; the other methods spend exactly as many on the same candidates, spread evenly:

- one seed: the lowest of the first value of each candidate; the only method that costs less
- lowest: the lowest of all values, which is how a search names its winner
- evenly: the lowest mean
- race: the lowest mean among those still in the race, which has ended when one is left

The second table compares a race of a search's best three with as many more trials of the search.
"""

from typing import NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from tuner.study.racing import interval, race

MEANS = (0.0, 1.0, 2.0, 4.0)
SEEDS = 5
RATIOS = (0.25, 0.5, 1.0, 2.0, 4.0)
TRIALS, TOP = 50, 3
HEADS = (
    *("noise / gap", "one seed", "lowest", "evenly", "race", "best eliminated", "trainings"),
    *("covered", "winner's mean covered"),
)
Array = NDArray[np.float64]


def simulate(random: np.random.Generator, means: Array, noise: float, correlation: float) -> Array:
    """Values of each candidate (rows) with each seed; candidates correlate over seeds."""
    own, common = random.standard_normal((len(means), SEEDS)), random.standard_normal(SEEDS)
    spread = np.sqrt(1 - correlation) * own + np.sqrt(correlation) * common
    return np.asarray(means[:, None] + noise * spread)


class Raced(NamedTuple):
    choice: int
    racing: list[int]  # candidates still in the race at its end
    seeds: list[int]  # trained of each candidate


def raced(values: Array, confidence: float = 0.95) -> Raced:
    """The candidate that a race chooses."""
    runs = {str(i): dict(enumerate(row.tolist())) for i, row in enumerate(values)}
    result = race(runs, SEEDS, confidence)
    over = max(left.seeds for left in result.left.values()) if len(result.racing) == 1 else SEEDS
    seeds = [result.left[name].seeds if name in result.left else over for name in runs]
    racing = [int(name) for name in result.racing]
    return Raced(min(racing, key=lambda i: values[i, :over].mean()), racing, seeds)


def spread_evenly(values: Array, trainings: int, random: np.random.Generator) -> list[Array]:
    """Values of each candidate if all are trained equally often, and some once more."""
    count, more = divmod(trainings, len(values))
    extra = random.permutation(len(values)) < more
    return [row[: count + bool(e)] for row, e in zip(values, extra, strict=True)]


class Outcome(NamedTuple):
    """Shares of studies in which each method did not choose the first candidate, and others."""

    one_seed: float
    lowest: float
    evenly: float
    race: float
    eliminated: float  # share of races that eliminated the first
    trainings: float  # mean number in a race
    covered: float  # share of intervals from all seeds that contain the true mean
    winner_covered: float  # the same of the interval of the race's choice


def compare(
    ratio: float, studies: int, seed: int = 0, correlation: float = 0.0, means: Array | None = None
) -> Outcome:
    """Simulate studies whose noise is ``ratio`` times the gap between the best candidates."""
    random, true = np.random.default_rng(seed), np.array(MEANS) if means is None else means
    rows = []
    for _ in range(studies):
        values = simulate(random, true, ratio, correlation)
        choice, racing, seeds = raced(values)
        even = spread_evenly(values, sum(seeds), random)
        chosen = [
            int(values[:, 0].argmin()),
            int(np.argmin([own.min() for own in even])),
            int(np.argmin([own.mean() for own in even])),
            choice,
        ]
        covered = np.mean([contains(row, mean) for row, mean in zip(values, true, strict=True)])
        winner = contains(values[choice, : seeds[choice]], true[choice])
        wrong = [float(c != 0) for c in chosen]
        rows.append([*wrong, 0 not in racing, sum(seeds), float(covered), winner])
    return Outcome(*np.mean(rows, axis=0).tolist())


def contains(values: Array, mean: float) -> bool:
    found = interval(values.tolist())
    return found.low is not None and found.high is not None and found.low <= mean <= found.high


def search_longer(ratio: float, studies: int, seed: int = 0) -> tuple[float, float, float]:
    """Mean of the chosen configuration's true mean: a search, a longer one, and a confirmed one.

    True means are standard normal, as of a random search; ``ratio`` is the noise over their spread.
    The longer search has as many more trials as the race of the best three trains.
    """
    random, rows = np.random.default_rng(seed), []
    for _ in range(studies):
        true = random.standard_normal(TRIALS + TOP * SEEDS)
        found = true + ratio * random.standard_normal(len(true))
        best = np.argsort(found[:TRIALS])[:TOP]
        confirmed = raced(simulate(random, true[best], ratio, 0.0))
        longer = found[: TRIALS + sum(confirmed.seeds)].argmin()
        rows.append([true[best[0]], true[longer], true[best[confirmed.choice]]])
    first, second, third = np.mean(rows, axis=0).tolist()
    return first, second, third


def main(studies: int = 4000, correlation: float = 0.0) -> None:
    print(f"| {' | '.join(HEADS)} |\n|{' --- |' * len(HEADS)}")
    for ratio in RATIOS:
        found = compare(ratio, studies, correlation=correlation)
        shares = [f"{share:.1%}" for share in found]
        shares[5] = f"{found.trainings:.1f}"
        print(f"| {ratio:g} | {' | '.join(shares)} |", flush=True)
    equal = compare(1.0, studies, correlation=correlation, means=np.zeros(len(MEANS)))
    print(f"\nOf four equal candidates, the first was eliminated in {equal.eliminated:.1%}.")
    print(
        "\n| noise / spread | search | longer search | search and race |\n| --- | --- | --- | --- |"
    )
    for ratio in RATIOS[:-1]:
        means = " | ".join(f"{mean:.2f}" for mean in search_longer(ratio, studies))
        print(f"| {ratio:g} | {means} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
