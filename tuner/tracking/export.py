"""Write the recorded trials of a study to a tracker."""

from collections.abc import Callable, Iterable, Mapping

from tuner.errors import TunerError
from tuner.study.epochs import report_times
from tuner.study.records import TrialRecord
from tuner.study.store import StudyStore
from tuner.tracking.runs import Epoch, Run, TrackedTrial, failure, unmeasured

Pictures = Iterable[tuple[int, bytes]]  # epochs, and their sample grids as PNG files


def export_trials(
    store: StudyStore,
    begin: Callable[[TrackedTrial], Run],
    pictures: Callable[[int], Pictures],
) -> int:
    """Add to the tracker what it lacks of the trials that have begun; returns their number.

    ``pictures`` returns the pictures of a trial. TunerError if the tracker fails.
    """
    trials = [*store.trials(), *store.confirmation_trials()]
    times = report_times(store)
    for trial in trials:
        tracked = TrackedTrial(store.name, store.folder, trial.number, trial.params, trial.confirms)
        grids = pictures(trial.number)
        try:
            _export(trial, begin(tracked), times.get(trial.number, {}), grids)
        except TunerError:
            raise
        except Exception as error:
            raise TunerError(f"trial {trial.number} can't be exported: {failure(error)}") from error
    return len(trials)


def _export(trial: TrialRecord, run: Run, times: Mapping[int, float], pictures: Pictures) -> None:
    new = [
        Epoch(report, times[report.epoch])
        for report in trial.reports
        if report.epoch > (run.last_epoch or 0) and report.epoch in times
    ]
    if new:
        run.epochs(new)
    for epoch, png in pictures:
        run.picture(epoch, png)
    if trial.has_ended:
        run.end(trial.state, trial.reason, unmeasured(trial.objectives))
    else:
        run.close()
