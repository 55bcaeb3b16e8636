"""Recorded curves on simulated workers: which epochs a pruner would have trained, and when.

The only events are ends of epochs, after the recorded seconds. Workers claim trials in the order of
``WorkerSession.claim``, and decisions see what has been reported by then, as in a study's database.
Promotions and the rest take no time, and nothing fails.
"""

from collections import deque
from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple, Protocol

import optuna
from optuna.trial import TrialState

from tuner.spec.pruners import AshaPruner, PrunerSpec
from tuner.spec.study import StudySpec
from tuner.study.curves import Curve
from tuner.study.rungs import Ladder, Reached, Standings
from tuner.study.samplers import make_pruner


class TrainedEpoch(NamedTuple):
    """An epoch of the recorded trial ``trial`` that is over at ``end``, in seconds."""

    trial: int
    epoch: int
    end: float


class Simulated(NamedTuple):
    """The trained epochs in order of their ends, and where trials ended early.

    ``ends`` holds, by recorded numbers of trials, the epochs after which they were pruned, or
    paused and never promoted.
    """

    epochs: list[TrainedEpoch]
    ends: dict[int, int]


class _Rules(Protocol):
    """What a pruner decides. Trials are numbered in the order in which they begin."""

    def begin(self) -> int:
        """Begin a trial; returns its number."""

    def stops(self, number: int, epoch: int, value: float) -> bool:
        """Whether the trial is pruned or paused after ``epoch``."""

    def end(self, number: int, is_complete: bool) -> None:
        """Record the end of a trial that was not stopped."""

    def promoted(self) -> int | None:
        """Resume a paused trial that is promotable now."""

    def promoted_last(self) -> int | None:
        """Resume a paused trial when no trial is running and none can begin, if any qualifies."""


def simulate(
    curves: Sequence[Curve], pruner: PrunerSpec, spec: StudySpec, workers: int = 1
) -> Simulated:
    """Run the trials in this order, on ``workers`` workers, in a study of ``spec``.

    Curves that ended early end as pruned there, unless they are stopped before.
    """
    rules = _RungRules(spec, pruner) if isinstance(pruner, AshaPruner) else None
    return _Simulation(curves, rules or _OptunaRules(spec, pruner), workers).run()


class _Simulation:
    def __init__(self, curves: Sequence[Curve], rules: _Rules, workers: int) -> None:
        self._curves, self._rules, self._workers = curves, rules, workers
        self._ahead: list[deque[int]] = []  # the epochs to train, by trials that have begun
        self._events: list[tuple[float, int, int]] = []  # heap of times; one per busy worker
        self._order = count()  # of events at the same time
        self._result = Simulated([], {})

    def run(self) -> Simulated:
        now = 0.0
        while True:
            while len(self._events) < self._workers and (number := self._claim()) is not None:
                self._train(number, now)
            if not self._events:
                return self._result
            now, _, number = heappop(self._events)
            self._end_epoch(number, now)

    def _claim(self) -> int | None:
        number = self._rules.promoted()
        if number is None and len(self._ahead) < len(self._curves):
            number = self._rules.begin()
            self._ahead.append(deque(sorted(self._curves[number].seconds)))
        elif number is None and not self._events:
            number = self._rules.promoted_last()
        if number is not None:
            self._result.ends.pop(self._curves[number].trial, None)
        return number

    def _train(self, number: int, now: float) -> None:
        curve, ahead = self._curves[number], self._ahead[number]
        if ahead:
            event = now + curve.seconds[ahead[0]], next(self._order), number
            heappush(self._events, event)
        else:
            self._rules.end(number, curve.whole)

    def _end_epoch(self, number: int, now: float) -> None:
        curve, epoch = self._curves[number], self._ahead[number].popleft()
        self._result.epochs.append(TrainedEpoch(curve.trial, epoch, now))
        value = curve.values.get(epoch)
        if value is not None and self._rules.stops(number, epoch, value):
            self._result.ends[curve.trial] = epoch
        else:
            self._train(number, now)


class _RungRules:
    """Pauses and promotions of ``asha``, as in ``promotion``. No checkpoint is too large."""

    def __init__(self, spec: StudySpec, pruner: AshaPruner) -> None:
        self._ladder = Ladder.of(spec, pruner)
        self._standings = Standings(self._ladder)
        self._paused: dict[int, int] = {}  # rungs by number
        self._numbers = count()
        self._latest: dict[int, float] = {}  # values by number
        self._best: float | None = None  # value of a complete trial

    def begin(self) -> int:
        return next(self._numbers)

    def stops(self, number: int, epoch: int, value: float) -> bool:
        self._latest[number] = value
        if epoch not in self._ladder.rungs_of(number):
            return False
        self._standings.add(Reached(number, epoch, value))
        if self._standings.passes(number, epoch):
            return False
        self._paused[number] = epoch
        return True

    def end(self, number: int, is_complete: bool) -> None:
        if is_complete and number in self._latest:
            value = self._latest[number]
            self._best = value if self._best is None else min(value, self._best)

    def promoted(self) -> int | None:
        return self._resume(next(iter(self._standings.promotable(self._paused)), None))

    def promoted_last(self) -> int | None:
        return self._resume(self._standings.promoted_last(self._paused, self._best))

    def _resume(self, number: int | None) -> int | None:
        if number is not None:
            del self._paused[number]
        return number


class _OptunaRules:
    """One of Optuna's pruners, in an in-memory study.

    It has the recorded study's name, from which Hyperband derives its brackets.
    """

    def __init__(self, spec: StudySpec, pruner: PrunerSpec) -> None:
        self._storage, self._epochs = optuna.storages.InMemoryStorage(), spec.study.epochs
        self._study = optuna.create_study(storage=self._storage, study_name=spec.study.name)
        self._study.pruner = make_pruner(spec, pruner)
        self._ids: list[int] = []

    def begin(self) -> int:
        self._ids.append(self._storage.create_new_trial(self._study._study_id))
        return len(self._ids) - 1

    def stops(self, number: int, epoch: int, value: float) -> bool:
        trial_id = self._ids[number]
        self._storage.set_trial_intermediate_value(trial_id, epoch, value)
        # The pruner also sees the last epoch, to set its attributes, but can't prune then.
        stops = self._study.pruner.prune(self._study, self._storage.get_trial(trial_id))
        if not stops or epoch >= self._epochs:
            return False
        self.end(number, is_complete=False)
        return True

    def end(self, number: int, is_complete: bool) -> None:
        state = TrialState.COMPLETE if is_complete else TrialState.PRUNED
        trial = self._storage.get_trial(self._ids[number])
        step = trial.last_step
        values = None if step is None else [trial.intermediate_values[step]]
        self._storage.set_trial_state_values(self._ids[number], state, values)

    def promoted(self) -> int | None:
        return None

    promoted_last = promoted
