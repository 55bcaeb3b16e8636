"""The plot of a study's Pareto front."""

from tuner.spec.metrics import ALL_OBJECTIVES, OBJECTIVES
from tuner.spec.study import StudySpec
from tuner.study.objectives import pareto_front
from tuner.study.records import TrialRecord
from tuner.views.formatting import params_text
from tuner.views.style import BEST, MARKS, Figure, Trials, marker_style, new_figure, show_message
from tuner.views.summaries import values_text


def front_plot(spec: StudySpec, trials: Trials) -> Figure:
    """The first two objectives of all complete trials, with the Pareto front of all objectives."""
    labels = spec.metrics.labels
    figure = new_figure(f"Pareto front of {' and '.join(labels)}")
    if not spec.metrics.several:
        return show_message(figure, f"The study has one objective, {labels[0]}.")
    complete = [t for t in trials if t.state == "COMPLETE" and t.objectives]
    if not complete:
        return show_message(figure, "No trial is complete yet.")
    front = pareto_front(trials)
    names = spec.metrics.names[:2]
    x, y = ([trial.objectives[name] for trial in complete] for name in names)
    style = marker_style(MARKS[-1], len(complete))
    texts = {"text": list(map(_hover, complete)), "hovertemplate": "%{text}<extra></extra>"}
    figure.add_scatter(x=x, y=y, **style, **texts)
    x, y = ([trial.objectives[name] for trial in front] for name in names)
    figure.add_scatter(
        x=x,
        y=y,
        # With more objectives, the front is no line in a plane.
        mode="lines+markers" if len(spec.metrics.names) == 2 else "markers",
        marker={"color": BEST, "size": 9},
        line={"color": BEST, "width": 1.5, "dash": "dot"},
        name="Pareto front",
        text=list(map(_hover, front)),
        hovertemplate="%{text}<extra></extra>",
    )
    titles = [f"{OBJECTIVES[n]} ({_direction(n)} is better)" for n in names]
    figure.update_xaxes(title=titles[0])
    figure.update_yaxes(title=titles[1])
    return figure


def _direction(name: str) -> str:
    return "higher" if ALL_OBJECTIVES[name].higher else "lower"


def _hover(trial: TrialRecord) -> str:
    params = [params_text({name: value}) for name, value in trial.params.items()]
    return "<br>".join([f"trial {trial.number}", values_text(trial.objectives), *params])
