"""Confirm a study's winner: train its best configurations again, with fresh seeds.

A search picks the luckiest of many noisy values. So once it has ended, its ``top`` configurations
and the best baseline are trained again at full length, as trials that samplers and pruners do not
see. All get the same seeds, in rounds; a configuration that can no longer be the best gets no
further seed: see ``racing``. The values of the search itself do not count. Pure: records in, plan
and results out.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from tuner.spec.study import ConfirmSection
from tuner.study import racing
from tuner.study.racing import Difference, Interval, Race, Value
from tuner.study.records import TrialRecord

FIRST_SEED = 10_000_000  # trials of a search have lower numbers, from which their seeds follow
ATTEMPTS = 3  # failed runs with one seed after which it counts like a diverged one
FIRST_ROUNDS = 2  # begun at once, because two values are the fewest that can be compared


class Configuration(NamedTuple):
    """A configuration of the search, and the runs that confirm it."""

    trial: TrialRecord  # the search's best with these parameters
    runs: tuple[TrialRecord, ...]  # by number; those that failed included

    def values(self) -> dict[int, Value]:
        """The value of each seed that has been tried, by the seed's index; None if it diverged.

        Measured with the stored generator on fresh latents: the value of a run's best epoch is the
        best of many measurements on the same latents.
        """
        found: dict[int, Value] = {}
        failed: dict[int, int] = {}
        for run in self.runs:
            assert run.confirms is not None
            seed = run.confirms.seed
            if run.state == "COMPLETE":
                found[seed] = run.value if run.fresh is None else run.fresh
            elif run.state == "PRUNED":
                found[seed] = None
            elif run.state == "FAIL":
                failed[seed] = failed.get(seed, 0) + 1
        return {seed: None for seed, times in failed.items() if times >= ATTEMPTS} | found

    def running(self) -> set[int]:
        """The seeds that are being trained."""
        return {run.confirms.seed for run in self.runs if run.confirms and not run.has_ended}


class Wanted(NamedTuple):
    """A run that may begin now."""

    trial: int  # whose configuration it repeats
    seed: int
    attempts: int  # earlier runs of it, which failed


class Confirmation(NamedTuple):
    """The progress of a confirmation."""

    configurations: dict[int, Configuration]  # by the number of the search's trial, its best first
    race: Race
    wanted: list[Wanted]
    baseline: int | None  # the configuration that is a baseline of the study file, if any

    @property
    def ended(self) -> bool:
        """Whether no run is missing or under way."""
        return not self.wanted and not any(c.running() for c in self.configurations.values())

    def runs_left(self, seeds: int) -> int:
        """The number of runs that are still to end if no further configuration leaves the race."""
        racing = [c for n, c in self.configurations.items() if _name(n) in self.race.racing]
        left = sum(seeds - len(one.values()) for one in racing)
        return 0 if self.ended else max(1, left)


def confirmation(
    section: ConfirmSection, search: Sequence[TrialRecord], runs: Sequence[TrialRecord]
) -> Confirmation:
    """Plan the confirmation of a ``search`` that has ended; ``runs`` are those that began so far.

    Reports of the trials are not needed.
    """
    chosen, baseline = _candidates(section, search)
    # Also configurations that were among the best before the search went on.
    known = {trial.number: trial for trial in search}
    chosen += [known[n] for n in _confirmed(runs) if n in known and known[n] not in chosen]
    found = {
        trial.number: Configuration(
            trial, tuple(r for r in runs if r.confirms and r.confirms.trial == trial.number)
        )
        for trial in chosen
    }
    values = {_name(number): one.values() for number, one in found.items()}
    race = racing.race(values, section.seeds, section.confidence)
    wanted = [
        Wanted(number, seed, sum(r.confirms == (number, seed) for r in one.runs))
        for seed in range(section.seeds)
        for number, one in found.items()
        if _name(number) in race.racing
        and seed not in one.values().keys() | one.running()
        and (seed < max(FIRST_ROUNDS, race.rounds + 1) or len(race.racing) == 1)
    ]
    return Confirmation(found, race, wanted, baseline)


def _candidates(
    section: ConfirmSection, search: Sequence[TrialRecord]
) -> tuple[list[TrialRecord], int | None]:
    """The best trial of each of the ``top`` configurations, and of the best baseline.

    If fewer are complete, trials that were paused at the highest rungs follow.
    """
    ranked = sorted(search, key=_rank)
    distinct: list[TrialRecord] = []
    for trial in ranked:
        usable = trial.state == "COMPLETE" or trial.paused_at is not None
        if usable and all(trial.params != other.params for other in distinct):
            distinct.append(trial)
    chosen = distinct[: section.top]
    baselines = [t for t in ranked if t.baseline and t.has_ended and not t.was_excluded]
    if not baselines or not chosen:
        return chosen, None
    same = next((t for t in chosen if t.params == baselines[0].params), None)
    return (chosen, same.number) if same else ([*chosen, baselines[0]], baselines[0].number)


def _rank(trial: TrialRecord) -> tuple[bool, int, float, int]:
    """Complete trials before others; then higher rungs; then lower values; then by number."""
    value = math.inf if trial.value is None else trial.value
    return trial.state != "COMPLETE", -(trial.paused_at or 0), value, trial.number


def _confirmed(runs: Sequence[TrialRecord]) -> list[int]:
    return list(dict.fromkeys(run.confirms.trial for run in runs if run.confirms))


def _name(number: int) -> str:
    """The configuration in the sentences of ``racing``."""
    return f"trial {number}"


class Result(NamedTuple):
    """The measurements of a configuration."""

    trial: TrialRecord
    value: Interval  # of the stored generators on fresh latents
    best_epoch: Interval  # of the objective in the best epochs
    last_epoch: Interval  # of the objective in the last epochs
    probability: float | None  # of having the lowest true mean
    over_baseline: Difference | None  # its mean less the baseline's
    left: str | None  # when and why it left the race


def results(section: ConfirmSection, found: Confirmation, objective: str) -> list[Result]:
    """The results by configuration, the lowest mean first; needs the runs' reports."""
    values = {number: one.values() for number, one in found.configurations.items()}
    probable = racing.probability_best({_name(n): v for n, v in values.items() if v})
    made = []
    for number, one in found.configurations.items():
        ended = [run for run in one.runs if run.state in ("COMPLETE", "PRUNED")]
        best = [run.value if run.state == "COMPLETE" else None for run in ended]
        complete = [run.history.last_value(objective) for run in ended if run.state == "COMPLETE"]
        last = complete + [None] * (len(ended) - len(complete))
        over = None
        if found.baseline is not None and number != found.baseline:
            base = values[found.baseline]
            over = racing.difference(values[number], base, section.confidence)
        left = found.race.left.get(_name(number))
        made.append(
            Result(
                trial=one.trial,
                value=racing.interval(values[number].values(), section.confidence),
                best_epoch=racing.interval(best, section.confidence),
                last_epoch=racing.interval(last, section.confidence),
                probability=probable.get(_name(number)) if len(probable) > 1 else None,
                over_baseline=over,
                left=left and f"after {left.seeds} seeds: {left.reason}",
            )
        )
    return sorted(made, key=lambda result: _order(result.value))


def _order(value: Interval) -> tuple[bool, float]:
    return math.isnan(value.mean), value.mean
