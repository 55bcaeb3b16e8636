"""Comparing configurations by their values with several seeds: intervals, races, seed noise.

Lower values are better. The runs of a configuration map the index of each seed to its value.
``None``, NaN and infinity mark a run that ended without a finite value: it counts as infinitely
bad, so that a configuration does not gain from a seed with which it diverged. A seed without an
entry has not been trained (or failed for a reason that has nothing to do with the configuration,
and is to be trained again) and says nothing.

All methods assume that the values of a configuration are about normal over seeds. Only where it
says "pooled" are configurations assumed to have the same noise.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Value = float | None
Runs = Mapping[int, Value]
QUANTILES = 4_000  # of each posterior; probabilities are then exact to 0.001


class Interval(NamedTuple):
    """Mean of ``n`` values with its confidence interval.

    One value has neither standard deviation nor interval. The mean is infinite if a run ended
    without a finite value, and NaN if there is no run.
    """

    mean: float
    deviation: float | None
    low: float | None
    high: float | None
    n: int


def interval(values: Iterable[Value], confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean; the standard deviation has n - 1 in its denominator."""
    numbers = [_number(value) for value in values]
    n = len(numbers)
    if n == 0 or math.inf in numbers:
        return Interval(math.inf if n else math.nan, None, None, None, n)
    mean = float(np.mean(numbers))
    if n == 1:
        return Interval(mean, None, None, None, n)
    deviation = float(np.std(numbers, ddof=1))
    half = _quantile(n - 1, confidence) * deviation / math.sqrt(n)
    return Interval(mean, deviation, mean - half, mean + half, n)


class Difference(NamedTuple):
    """Mean difference of two configurations with its confidence interval, if it has one.

    ``n`` is the number of pairs, or without pairing the number of values on both sides. The mean
    is infinite if a run of one side ended without a finite value, and NaN if runs of both did.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    paired: bool


def difference(a: Runs, b: Runs, confidence: float = 0.95) -> Difference:
    """Mean of a minus mean of b: below zero if a is better.

    Paired by seed if the two share at least two seeds: exact however correlated they are. Otherwise
    Welch's interval for independent samples.
    """
    shared = sorted(a.keys() & b.keys())
    paired = len(shared) > 1
    x, y = (
        [_number(v) for v in ([c[s] for s in shared] if paired else c.values())] for c in (a, b)
    )
    n = len(shared) if paired else len(x) + len(y)
    if not x or not y or math.inf in x or math.inf in y:
        mean = _mean(x) - _mean(y) if x and y else math.nan
        return Difference(mean, None, None, n, paired)
    if paired:
        of = interval(np.subtract(x, y).tolist(), confidence)
        return Difference(of.mean, of.low, of.high, n, paired)
    mean = _mean(x) - _mean(y)
    if min(len(x), len(y)) < 2:
        return Difference(mean, None, None, n, paired)
    error, freedom = _welch(x, y)
    half = _quantile(freedom, confidence) * error
    return Difference(mean, mean - half, mean + half, n, paired)


class Left(NamedTuple):
    """A configuration that left the race, after how many seeds, and why."""

    seeds: int
    reason: str


class Race(NamedTuple):
    """State of a race: the configurations in it, those that left it, and the rounds that are over.

    In the next round each configuration still in the race trains the seed of index ``rounds``. The
    race is decided once a single one is left.
    """

    racing: tuple[str, ...]
    left: dict[str, Left]
    rounds: int


def race(configurations: Mapping[str, Runs], seeds: int, confidence: float = 0.95) -> Race:
    """Replay a race of at most ``seeds`` rounds on the runs so far.

    Round r adds seed r - 1 of each configuration still in the race, and is over when all of these
    have an entry. A configuration then leaves if more of its runs ended without a finite value than
    of another one still in the race; or if its mean is significantly above another's, by Welch's
    (1947) one-sided t-test for unequal variances over the finite values of the rounds so far.

    As in races by paired tests (Birattari et al. 2002; irace, López-Ibáñez et al. 2016), compared
    configurations have seen the same seeds. Here the test is unpaired: with up to twice as many
    degrees of freedom it finds more than the paired t-test unless values correlate over seeds by
    more than about 0.5 at five seeds, or 0.8 at three; if they correlate positively it only becomes
    more cautious. Hoeffding's bound (Maron and Moore 1994) would need a known range of values and
    many more seeds.

    The best of K configurations leaves wrongly only if one of the K - 1 others beats it in one of
    the ``seeds`` - 1 rounds with tests. Each test has the level (1 - confidence) / ((K - 1)
    (``seeds`` - 1)). By Bonferroni's inequality the best of configurations that do not diverge is
    eliminated with a probability of at most 1 - confidence in the whole race, as far as Welch's
    approximation holds.
    """
    racing, left, rounds = tuple(configurations), dict[str, Left](), 0
    tests = max(1, len(racing) - 1) * max(1, seeds - 1)
    while racing and rounds < seeds and all(rounds in configurations[name] for name in racing):
        rounds += 1
        values = {n: [_number(configurations[n][s]) for s in range(rounds)] for n in racing}
        reasons = _diverged(values)
        finite = {n: [v for v in values[n] if v < math.inf] for n in racing if n not in reasons}
        reasons |= _beaten(finite, tests, 1 - confidence)
        left |= {name: Left(rounds, reason) for name, reason in reasons.items()}
        racing = tuple(name for name in racing if name not in left)
    return Race(racing, left, rounds)


def _diverged(values: Mapping[str, Sequence[float]]) -> dict[str, str]:
    lost = {name: sum(v == math.inf for v in own) for name, own in values.items()}
    return {
        name: f"no finite value with {count} of {len(values[name])} seeds"
        for name, count in lost.items()
        if count > min(lost.values())
    }


def _beaten(values: Mapping[str, Sequence[float]], tests: int, level: float) -> dict[str, str]:
    reasons = {}
    for name, own in values.items():
        against = [
            (_p_value(own, rival), other) for other, rival in values.items() if other != name
        ]
        p, other = min(against, default=(1.0, ""))
        if p * tests < level:
            by = _mean(own) - _mean(values[other])
            reasons[name] = f"mean {by:.3g} above that of {other} (adjusted p = {p * tests:.2g})"
    return reasons


def _p_value(a: Sequence[float], b: Sequence[float]) -> float:
    """The p-value of Welch's test that the mean of a is greater than that of b; 1 if it is not."""
    if min(len(a), len(b)) < 2 or _mean(a) <= _mean(b):
        return 1.0
    by, (error, freedom) = _mean(a) - _mean(b), _welch(a, b)
    return float(_special().stdtr(freedom, -by / error)) if error else 0.0


def probability_best(configurations: Mapping[str, Runs]) -> dict[str, float]:
    """Probability that each configuration has the lowest true mean; empty if noise is unknown.

    The posterior of a mean under a flat prior is Student's t with n - 1 degrees of freedom, centred
    at the mean of the values and scaled by s / sqrt(n); the posteriors are independent. A
    configuration with a single value has the standard deviation pooled over the others, with the
    pooled degrees of freedom. One with a run without a finite value has probability 0, unless all
    have such runs; then the finite values decide.
    """
    numbers = {name: [_number(v) for v in runs.values()] for name, runs in configurations.items()}
    finite = {name: [v for v in own if v < math.inf] for name, own in numbers.items()}
    usable = {n: v for n, v in finite.items() if v and len(v) == len(numbers[n])}
    usable = usable or {n: v for n, v in finite.items() if v}
    pooled, all_freedom = _pooled(usable.values())
    if pooled is None:
        return {}
    posteriors = {}
    for name, own in usable.items():
        s = float(np.std(own, ddof=1)) if len(own) > 1 else pooled
        scale = max(s / math.sqrt(len(own)), 1e-12)  # equal values have none
        posteriors[name] = _mean(own), scale, len(own) - 1 or all_freedom
    found = {name: _probability_lowest(name, posteriors) for name in usable}
    return {name: found.get(name, 0.0) / sum(found.values()) for name in configurations}


def _probability_lowest(name: str, posteriors: Mapping[str, tuple[float, float, int]]) -> float:
    """Expectation, over quantiles of one posterior, that all others lie above."""
    mean, scale, freedom = posteriors[name]
    special = _special()
    x = mean + scale * special.stdtrit(freedom, (np.arange(QUANTILES) + 0.5) / QUANTILES)
    above = [
        special.stdtr(f, (m - x) / s) for other, (m, s, f) in posteriors.items() if other != name
    ]
    return float(np.mean(np.prod(above, axis=0)))


class Noise(NamedTuple):
    """How much of the spread between trials is due to their seeds."""

    deviation: float | None  # standard deviation over seeds; None without repeated configurations
    freedom: int  # its degrees of freedom: repeated runs less configurations
    share: float | None  # of the variance between trials that seeds explain, at most 1
    bound: float | None  # upper bound of the deviation, from neighbours in the search space
    pairs: int  # pairs of neighbours that the bound comes from
    bound_share: float | None  # the share that the bound would explain: an upper bound too


def noise(
    groups: Iterable[Sequence[float]],
    values: Sequence[float],
    coordinates: Sequence[Sequence[float]] | None = None,
) -> Noise:
    """Estimate seed noise from recorded trials; values that are not finite are left out.

    ``groups`` holds values of trials with equal hyperparameters and different seeds: ``deviation``
    is pooled within them. ``values`` holds those of all trials whose spread is to be explained. A
    share near 1 says that these trials differ by chance; among all trials of a search it is small
    if bad regions were tried, so pass the best ones to learn whether their order means anything.

    ``coordinates`` are each trial's hyperparameters, scaled to 0..1. Half the mean squared
    difference of nearest neighbours estimates the variance of the noise (Rice 1984, there of
    consecutive points in one dimension; the nugget of a variogram). Neighbours differ in their
    hyperparameters too, so on average it is too large, the more so with few trials or many
    dimensions (Munk et al. 2005). It is an upper bound on average, not in every study.
    """
    deviation, freedom = _pooled([[v for v in g if math.isfinite(v)] for g in groups])
    kept = np.isfinite(values)
    finite = np.asarray(values, float)[kept]
    bound, pairs = None, 0
    if coordinates is not None and len(finite) > 1:
        bound, pairs = _nearest_neighbours(finite, np.asarray(coordinates, float)[kept])
    return Noise(deviation, freedom, _share(deviation, finite), bound, pairs, _share(bound, finite))


def _nearest_neighbours(values: np.ndarray, points: np.ndarray) -> tuple[float, int]:
    from scipy.spatial import cKDTree

    own = np.arange(len(values))
    near = cKDTree(points).query(points, k=2)[1]  # one of the two is the point itself, as a rule
    other = np.where(near[:, 0] == own, near[:, 1], near[:, 0])
    pairs = np.unique(np.sort([own, other], axis=0), axis=1)  # mutual neighbours count once
    squares = (values[pairs[0]] - values[pairs[1]]) ** 2
    return math.sqrt(squares.mean() / 2), pairs.shape[1]


def _share(deviation: float | None, values: np.ndarray) -> float | None:
    total = float(np.var(values, ddof=1)) if len(values) > 1 else 0.0
    return min(1.0, deviation**2 / total) if deviation is not None and total > 0 else None


def _pooled(groups: Iterable[Sequence[float]]) -> tuple[float | None, int]:
    """Standard deviation within the groups, and its degrees of freedom."""
    several = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in several)
    squares = sum(float(np.var(group)) * len(group) for group in several)
    return (math.sqrt(squares / freedom) if freedom else None), freedom


def _welch(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Standard error of a difference of means, and Satterthwaite's degrees of freedom."""
    u, v = (float(np.var(x, ddof=1)) / len(x) for x in (a, b))
    share = u / (u + v) if u + v else 0.5
    freedom = 1 / (share**2 / (len(a) - 1) + (1 - share) ** 2 / (len(b) - 1))
    return math.sqrt(u + v), freedom


def _special() -> Any:
    """Student's t distribution. Imported where it is needed: most commands never do."""
    from scipy import special

    return special


def _quantile(freedom: float, confidence: float) -> float:
    return float(_special().stdtrit(freedom, (1 + confidence) / 2))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _number(value: Value) -> float:
    """The value; infinity if the run ended without a finite one."""
    return value if value is not None and math.isfinite(value) else math.inf
