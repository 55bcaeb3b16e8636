"""A study's plots, all of them: plotly figures from its file and its trials, without a database."""

from tuner.spec import StudySpec
from tuner.views.curves import loss_ratio_against_epoch, trial_curves, value_against_epoch
from tuner.views.parameters import importances, marginal, marginals, settings_map
from tuner.views.style import Figure, Trials, blank, by_outcome, says

__all__ = [
    "FIGURES",
    "Figure",
    "importances",
    "loss_ratio_against_epoch",
    "marginal",
    "marginals",
    "seconds_of",
    "settings_map",
    "time_by_outcome",
    "trial_curves",
    "value_against_epoch",
]
UNITS = ((3600, "hours"), (60, "minutes"), (1, "seconds"))


def seconds_of(trials: Trials) -> tuple[float, float]:
    """Device-seconds of training, and of evaluating."""
    reports = [report for trial in trials for report in trial.reports]
    return sum(r.train_seconds for r in reports), sum(r.evaluate_seconds for r in reports)


def time_by_outcome(spec: StudySpec, trials: Trials) -> Figure:
    """The time of the devices that trials of each outcome took: training, and evaluating on top."""
    figure = blank("Device time by outcome", 380)
    found = list(reversed(by_outcome(trials)))
    spent = [seconds_of(some) for _, some in found]
    if not sum(map(sum, spent)):
        return says(figure, "No epoch has ended yet.")
    size, unit = next(pair for pair in UNITS if max(map(sum, spent)) >= pair[0] or pair[0] == 1)
    names = [f"{mark.name} ({len(some)})" for mark, some in found]
    parts = (("training", "#0072B2", ""), ("evaluating", "#56B4E9", "/"))
    for part, (name, colour, pattern) in enumerate(parts):
        figure.add_bar(
            x=names,
            y=[seconds[part] / size for seconds in spent],
            name=name,
            marker={
                "color": colour,
                "pattern": {"shape": pattern, "fillmode": "overlay", "fgcolor": "#333333"},
            },
            hovertemplate=f"%{{x}}, {name}: %{{y:.3g}} {unit}<extra></extra>",
        )
    figure.update_layout(barmode="stack")
    figure.update_xaxes(title="Outcome (trials)")
    figure.update_yaxes(title=f"Device time ({unit})")
    return figure


# What a study's plots are called.
FIGURES = {
    "value": value_against_epoch,
    "loss-ratio": loss_ratio_against_epoch,
    "map": settings_map,
    "time": time_by_outcome,
    "marginals": marginals,
    "importances": importances,
}
