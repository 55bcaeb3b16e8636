"""The epochs that a study with rungs still has to train, promotions of paused trials included."""

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

from optuna.trial import TrialState
from sqlalchemy import ColumnElement, Connection, String, case, cast, func, select

from tuner.study import tables
from tuner.study.records import FINISHED
from tuner.study.rungs import Ladder

PAUSED = "PAUSED"  # among the states of trials: RUNNING for Optuna
_RUNNING = TrialState.RUNNING.name


class Standing(NamedTuple):
    """The position of trials of the search."""

    bracket: int
    epoch: int  # the last one reported
    state: str


def read_standings(connection: Connection, study_id: int, ladder: Ladder) -> dict[Standing, int]:
    """Count the trials that have begun and not failed."""
    trials, lease = tables.optuna_trials.c, tables.leases.c
    columns = trials.number % ladder.period, lease.epoch, state_column()
    query = (
        select(*columns, func.count())
        .join_from(tables.optuna_trials, tables.leases, lease.trial_id == trials.trial_id)
        .where(trials.study_id == study_id, lease.confirms.is_(None))
        .where(trials.state.in_((TrialState.RUNNING, *FINISHED)))
        .group_by(*columns)
    )
    found: dict[Standing, int] = {}
    for number, epoch, state, count in connection.execute(query):
        key = Standing(ladder.bracket(number), epoch, state)
        found[key] = found.get(key, 0) + count
    return found


def state_column() -> ColumnElement[str]:
    """The state of a trial that is joined with its lease."""
    trials, lease = tables.optuna_trials.c, tables.leases.c
    paused = (lease.status == "paused") & (trials.state == TrialState.RUNNING)
    # As text, because other programs may have written states that Optuna does not know.
    return case((paused, PAUSED), else_=cast(trials.state, String))


def epochs_ahead(
    ladder: Ladder, epochs: int, standings: Mapping[Standing, int], to_begin: int
) -> int:
    """The epochs still to train in a study with trials of ``epochs`` epochs and ``to_begin`` new
    ones, if of the n trials that reach a rung, n / reduction_factor pass it in the end.

    More will be trained if some trials pass that are not among the best in the end.
    """
    begun = sum(standings.values())
    new = [ladder.bracket(number) for number in range(begun, begun + to_begin)]
    total = 0
    for bracket in range(ladder.brackets):
        here = {key: n for key, n in standings.items() if key.bracket == bracket}
        coming = new.count(bracket)  # trials that will begin the next stretch
        for start, end in pairwise((0, *ladder.rungs[bracket:], epochs)):
            left = {k: n for k, n in here.items() if k.state == _RUNNING and start <= k.epoch < end}
            total += sum((end - key.epoch) * n for key, n in left.items()) + coming * (end - start)
            eligible = sum(left.values()) + coming  # to pass the rung at the end
            eligible += sum(
                n for key, n in here.items() if key.epoch == end and key.state == PAUSED
            )
            reached = sum(left.values()) + coming
            reached += sum(n for key, n in here.items() if key.epoch >= end)
            passed = sum(n for key, n in here.items() if _has_passed(key, end))
            # At least one trial of the study is trained to its end.
            passing = max(reached // ladder.reduction_factor, int(bracket == ladder.brackets - 1))
            coming = max(0, min(passing - passed, eligible))
    return total


def _has_passed(one: Standing, rung: int) -> bool:
    return one.epoch > rung or (one.epoch == rung and one.state == _RUNNING)
