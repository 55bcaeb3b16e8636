"""Asynchronous successive halving: which trials pass a rung, and which paused ones are promoted.

The promotion type of ASHA (Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning",
algorithm 2): of the n trials that have reached a rung, the best n / reduction_factor pass it. The
others are paused, and promoted once more trials have reached the rung and they are among the best
after all. Several brackets, in which trials skip rungs, make it asynchronous Hyperband. Pure:
values in, decisions out.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import NamedTuple, Self

from tuner.spec.metrics import ALL_OBJECTIVES
from tuner.spec.pruners import AshaPruner
from tuner.spec.study import StudySpec


class Ladder:
    """The rungs of a study's trials, as epochs. A trial's bracket follows from its number."""

    def __init__(
        self,
        rungs: tuple[int, ...],
        reduction_factor: int,
        brackets: int = 1,
        *,
        higher: bool = False,
    ) -> None:
        """Trials of bracket b skip the first b ``rungs``. ``higher``: higher values are better."""
        self.rungs, self.reduction_factor, self.brackets = rungs, reduction_factor, brackets
        self.higher = higher

    @classmethod
    def of(cls, spec: StudySpec, pruner: AshaPruner) -> Self:
        rungs = pruner.rungs(spec.study.epochs, spec.metrics.every)
        higher = ALL_OBJECTIVES[spec.metrics.objective].higher
        return cls(rungs, pruner.reduction_factor, pruner.brackets, higher=higher)

    @cached_property
    def _pattern(self) -> list[int]:
        """The brackets of trials 0, 1, ..., which are repeated.

        Brackets get trials in Hyperband's proportions (Li et al. 2018, algorithm 1: a bracket with
        s rungs gets eta^s / (s + 1)), so all brackets train about as many epochs. The one that lags
        most behind its share gets the next trial.
        """
        counts = [len(self.rungs) - bracket for bracket in range(self.brackets)]
        eta, most = self.reduction_factor, counts[0] + 1
        shares = [-(-most * eta**count // (count + 1)) for count in counts]
        given = [0] * self.brackets
        found = []
        for _ in range(sum(shares)):
            bracket = min(range(self.brackets), key=lambda b: ((given[b] + 1) / shares[b], b))
            given[bracket] += 1
            found.append(bracket)
        return found

    @property
    def period(self) -> int:
        """Trials whose numbers differ by this are in the same bracket."""
        return len(self._pattern) if self.brackets > 1 else 1

    def bracket(self, number: int) -> int:
        """The bracket of trial ``number``."""
        return self._pattern[number % len(self._pattern)] if self.brackets > 1 else 0

    def rungs_of(self, number: int) -> tuple[int, ...]:
        """The rungs of trial ``number``."""
        return self.rungs[self.bracket(number) :]


class Reached(NamedTuple):
    """A trial's value at a rung that it has reached."""

    number: int
    rung: int
    value: float


class Standings:
    """The values of all trials at the rungs that they have reached."""

    def __init__(self, ladder: Ladder, reached: Iterable[Reached] = ()) -> None:
        self._ladder = ladder
        self._sign = -1 if ladder.higher else 1  # of a value as a cost, of which lower is better
        self._ranked: dict[tuple[int, int], list[tuple[float, int]]] = {}  # best first
        self._costs: dict[tuple[int, int], float] = {}
        for one in reached:
            self.add(one)

    def add(self, one: Reached) -> None:
        """Add a value. One at an epoch that is no rung of the trial is ignored."""
        number, rung, value = one
        if rung in self._ladder.rungs_of(number):
            cost = self._sign * value
            insort(self._ranked.setdefault(self._place(number, rung), []), (cost, number))
            self._costs[number, rung] = cost

    def _place(self, number: int, rung: int) -> tuple[int, int]:
        return self._ladder.bracket(number), rung

    def passes(self, number: int, rung: int) -> bool:
        """Whether the trial is among those that pass the rung now."""
        cost = self._costs.get((number, rung))
        if cost is None:
            return False
        ranked = self._ranked[self._place(number, rung)]
        return bisect_left(ranked, (cost, number)) < len(ranked) // self._ladder.reduction_factor

    def threshold(self, number: int, rung: int) -> float | None:
        """The worst value that passes the trial's rung now; None while none does."""
        ranked = self._ranked.get(self._place(number, rung), [])
        passing = len(ranked) // self._ladder.reduction_factor
        return self._sign * ranked[passing - 1][0] if passing else None

    def ranked(self, paused: Mapping[int, int]) -> list[int]:
        """The paused trials, given with their rungs: higher rungs first, then better values."""
        worst = float("inf")
        return sorted(paused, key=lambda n: (-paused[n], self._costs.get((n, paused[n]), worst), n))

    def promotable(self, paused: Mapping[int, int]) -> list[int]:
        """The paused trials that pass their rung now, in order of promotion."""
        return [number for number in self.ranked(paused) if self.passes(number, paused[number])]

    def promoted_last(self, paused: Mapping[int, int], best: float | None) -> int | None:
        """The paused trial to resume when no trial runs and no new one can begin; None if all end.

        A trial that was better at its rung than ``best``, the value of the best complete trial,
        can only win, so it resumes. If none is complete, the one ranked first resumes.
        """
        candidates = self.promotable(paused) or [
            number
            for number in self.ranked(paused)
            if best is None
            or self._costs.get((number, paused[number]), math.inf) < self._sign * best
        ]
        return candidates[0] if candidates else None

    def why_paused(self, number: int, rung: int) -> str:
        """The trial's value at the rung and the one needed, as text."""
        cost, needed = self._costs.get((number, rung)), self.threshold(number, rung)
        found = "no value" if cost is None else f"{self._sign * cost:.4g}"
        if needed is None:
            reached = len(self._ranked.get(self._place(number, rung), []))
            of = self._ladder.reduction_factor
            return f"{found}, {reached} of {of} trials needed for a comparison"
        return f"{found}, {needed:.4g} needed"
