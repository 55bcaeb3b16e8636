"""The plots of a study that the Optuna Dashboard shows, as it wants them: plotly's JSON."""

from tuner.spec import StudySpec
from tuner.study.store import TrialRecord
from tuner.trial import EpochReport
from tuner.views.figures import FIGURES
from tuner.views.style import Trials

SHOWN = ("value", "loss-ratio", "map", "time")
MOST_EPOCHS = 10_000  # in a plot: a browser fetches them all, again and again


def plots(spec: StudySpec, trials: Trials) -> dict[str, str]:
    """The plots as JSON, by their names. Curves of very many epochs leave some out."""
    thin = thinned(trials, spec.metrics.objective)
    drawn = {name: FIGURES[name](spec, trials if name == "time" else thin) for name in SHOWN}
    return {name: figure.to_json() for name, figure in drawn.items()}


def thinned(trials: Trials, objective: str, most: int = MOST_EPOCHS) -> list[TrialRecord]:
    """The trials with about ``most`` epochs of all together, their first, best and last among
    them."""
    step = -(-events(trials) // most)
    return [trial._replace(reports=_some(trial, objective, step)) for trial in trials]


def _some(trial: TrialRecord, objective: str, step: int) -> tuple[EpochReport, ...]:
    kept = (1, len(trial.reports), trial.best_epoch(objective))
    return tuple(r for r in trial.reports if r.epoch % step == 0 or r.epoch in kept)


def events(trials: Trials) -> int:
    """How much has happened to the trials: epochs and ends. It only grows."""
    ended = sum(trial.state != "RUNNING" for trial in trials)
    return ended + sum(len(trial.reports) for trial in trials)
