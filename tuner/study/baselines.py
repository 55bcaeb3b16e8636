"""The baselines of a study's search that have begun."""

from typing import NamedTuple

from sqlalchemy import Connection, String, cast, select
from sqlalchemy.orm import Session

from tuner.study import tables
from tuner.study.records import BASELINE


class BegunBaseline(NamedTuple):
    number: int
    epoch: int  # the last one reported
    state: str  # as Optuna has it: RUNNING if it is paused


def begun_baselines(connection: Connection | Session, study_id: int) -> list[BegunBaseline]:
    """The baselines that a worker has claimed at least once."""
    trials, lease = tables.optuna_trials.c, tables.leases.c
    attribute = tables.trial_attributes.c
    query = (
        # States as text, because other programs may have written some that Optuna does not know.
        select(trials.number, lease.epoch, cast(trials.state, String))
        .join_from(tables.optuna_trials, tables.leases, lease.trial_id == trials.trial_id)
        .join(tables.trial_attributes, attribute.trial_id == trials.trial_id)
        .where(trials.study_id == study_id, lease.confirms.is_(None))
        .where(attribute.key == BASELINE, attribute.value_json == "true")
    )
    return [BegunBaseline(*row) for row in connection.execute(query)]


def is_any_complete(baselines: list[BegunBaseline]) -> bool:
    return any(one.state == "COMPLETE" for one in baselines)


def epochs_left(baselines: list[BegunBaseline], epochs: int) -> int:
    """The epochs left, of ``epochs``, of the baseline that ``asha`` trains to its last epoch; 0 if
    a baseline is complete or none can be."""
    eligible = [one.epoch for one in baselines if one.state == "RUNNING"]
    return epochs - max(eligible) if eligible and not is_any_complete(baselines) else 0
