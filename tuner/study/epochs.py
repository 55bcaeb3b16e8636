"""The recorded epochs of a study: their reports, when each was made, and by which worker."""

from sqlalchemy import ColumnElement, Connection, func, select

from tuner.epoch_report import FIELDS, EpochReport
from tuner.study import rows, tables
from tuner.study.records import Ownership
from tuner.study.study_row import StudyRow


def read_reports(
    connection: Connection, where: ColumnElement[bool]
) -> dict[int, list[EpochReport]]:
    """The reports that can be read, by trial id, in order."""
    ours = tables.epochs.c
    columns = [*(ours[name] for name in FIELDS), ours.own]
    query = select(ours.trial_id, *columns).where(where).order_by(ours.trial_id, ours.epoch)
    reports: dict[int, list[EpochReport]] = {}
    for trial_id, *values in connection.execute(query):
        if (report := rows.epoch_report(values)) is not None:
            reports.setdefault(trial_id, []).append(report)
    return reports


def report_times(study: StudyRow) -> dict[int, dict[int, float]]:
    """When each epoch was reported, by trial number and epoch: seconds since 1970."""
    ours, trials = tables.epochs.c, tables.optuna_trials.c
    query = (
        select(trials.number, ours.epoch, ours.reported_at)
        .join(tables.optuna_trials, trials.trial_id == ours.trial_id)
        .where(trials.study_id == study.study_id, study.key.exists())
    )
    found: dict[int, dict[int, float]] = {}
    with study.database.reading() as connection:
        for number, epoch, at in connection.execute(query):
            if rows.finite(at) is not None:
                found.setdefault(number, {})[epoch] = at
    return found


def ownership_history(study: StudyRow, number: int) -> list[Ownership]:
    """The workers that trained a trial, in order: several if it was taken over."""
    epochs, workers, trials = tables.epochs.c, tables.workers.c, tables.optuna_trials.c
    query = (
        select(
            *(workers.host, workers.device, epochs.worker),
            *(func.min(epochs.epoch), func.max(epochs.epoch)),
            *(func.min(epochs.reported_at), func.max(epochs.reported_at)),
        )
        .select_from(tables.epochs)
        .join(tables.optuna_trials, trials.trial_id == epochs.trial_id)
        .outerjoin(tables.workers, workers.worker == epochs.worker)
        .where(trials.study_id == study.study_id, trials.number == number)
        .group_by(workers.host, workers.device, epochs.worker, epochs.token)
        .order_by(func.min(epochs.epoch))
    )
    with study.database.reading() as connection:
        found = connection.execute(query).all()
    return [
        Ownership(rows.text(host), rows.text(device), rows.text(worker), *numbers)
        for host, device, worker, *numbers in found
        if all(rows.finite(number) is not None for number in numbers)
    ]
