"""The report on a study: one self-contained page of HTML with its plots and samples.

Rendered from ``templates/``; Jinja2 escapes every value that is not ``Markup``.
"""

import base64
import math
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from tuner.spec.metrics import OBJECTIVES
from tuner.spec.study import StudySpec
from tuner.study.confirmation import Result
from tuner.study.importance import importances
from tuner.study.objectives import pareto_front
from tuner.study.records import StudySummary, TrialRecord, ranked
from tuner.version import __version__
from tuner.views import confirmations, html_tables, parameters, summaries
from tuner.views.axes import parameter_axes
from tuner.views.curves import trial_curves
from tuner.views.figures import PLOTS
from tuner.views.formatting import duration, number
from tuner.views.generator_warnings import advice, trial_warnings
from tuner.views.html_tables import Table
from tuner.views.study_toml import spec_toml
from tuner.views.style import Figure, Trials, by_outcome
from tuner.views.summaries import epochs_of

BEST_ROWS = 10
REASON_ROWS = 30
DECIDE_LATENTS = ("latent_dim", "conditional")  # the settings on which a trial's latents depend
_TEMPLATES = Environment(
    loader=PackageLoader("tuner.views"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)


class Grid(NamedTuple):
    """A PNG file with images, and what it shows."""

    label: str  # such as "epoch 5"
    png: bytes
    epoch: int = 0  # 0 if it belongs to no epoch

    @property
    def address(self) -> str:
        """The file as a data URL."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


class Pictures(NamedTuple):
    """The pictures of a report, and ``notes`` that say which are missing, and why."""

    samples: Mapping[int, Sequence[Grid]] = {}  # by trial, in the order of epochs
    real: Sequence[Grid] = ()  # real images
    neighbours: Sequence[Grid] = ()  # samples with their nearest training images
    drawn: Sequence[Grid] = ()  # by the best trial's generator, for the report
    notes: Sequence[str] = ()


NO_PICTURES = Pictures()


def render(template: str, **values: object) -> str:
    """The named template, filled with the values."""
    return _TEMPLATES.get_template(template).render(values)


def study_page(
    spec: StudySpec,
    summary: StudySummary,
    fingerprint: Mapping[str, str],
    trials: Trials,
    confirmed: Sequence[Result] = (),
    budget: str = "",
    pictures: Pictures = NO_PICTURES,
) -> str:
    """Render the report, including reasons why parts could not be computed.

    ``budget`` is the study's ``budget_line``.
    """
    objective = spec.metrics.objective
    best = pareto_front(trials) if spec.metrics.several else ranked(trials)[:BEST_ROWS]
    winner = winner_of(trials, confirmed)
    running = any(not trial.has_ended for trial in trials)
    return render(
        "report.html",
        summary=summary,
        metric=OBJECTIVES[objective],
        began=min(filter(None, (t.started for t in trials)), default=None),
        ended=None if running else max(filter(None, (t.ended for t in trials)), default=None),
        written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        version=__version__,
        plotly=Markup(get_plotlyjs()),
        tiles=_tiles(spec, summary, trials, confirmed),
        leader=winner[0] if winner else None,
        warnings=[text for trial in winner for text in trial_warnings(trial, objective)],
        advice=advice,
        winner=confirmations.winner_line(confirmed, spec),
        confirmed=confirmed and html_tables.confirmed_table(spec, confirmed),
        front=summaries.front_line(summary.name, best),
        gain=confirmations.gain_line(confirmed, spec) or summaries.baseline_gain(trials, objective),
        budget=budget,
        best=html_tables.trials_table(spec, best),
        held_out=winner and summaries.trial_held_out_line(winner[0], objective),
        pictures=pictures,
        values={trial.number: number(trial.value) for trial in trials},
        shown=_best_grids(pictures, {t.number: t.best_epoch(objective) for t in trials}),
        latents=latents_note(spec),
        plots=_plots(spec, trials, winner),
        importance=_importance(spec, trials),
        space=html_tables.space_table(spec),
        marginals=[
            _titled(parameters.marginal(spec, trials, name)) for name in parameter_axes(spec)
        ],
        ends=html_tables.ends_table(trials),
        most_ends=REASON_ROWS,
        cost=html_tables.cost_table(trials),
        phases=html_tables.phases_table(trials),
        evaluation_cost=summaries.evaluation_cost(summaries.durations(trials)),
        trials=html_tables.trials_table(spec, trials, every=True),
        fingerprint=Table(("part", "value"), list(fingerprint.items())),
        versions=html_tables.versions_table(trials),
        study_file=spec_toml(spec),
    )


def winner_of(trials: Trials, confirmed: Sequence[Result]) -> list[TrialRecord]:
    """The confirmed winner, else the best trial; empty if no trial is complete."""
    known = confirmed and math.isfinite(confirmed[0].value.mean)
    return [confirmed[0].trial] if known else ranked(trials)[:1]


def _best_grids(pictures: Pictures, best: Mapping[int, int | None]) -> dict[int, int]:
    """The index of the grid of each trial's ``best`` epoch, else of its last one."""
    return {
        trial: next((i for i, g in enumerate(grids) if g.epoch == best.get(trial)), len(grids) - 1)
        for trial, grids in pictures.samples.items()
    }


def latents_note(spec: StudySpec) -> str:
    """Which sample grids are drawn from the same latents: see ``run.study_latents``."""
    searched = [name for name in parameter_axes(spec) if name in DECIDE_LATENTS]
    which = f"trials with equal {' and '.join(searched)}" if searched else "all trials"
    return (
        f"The samples of {which} are generated from the same latents, in each epoch: two images at "
        "the same position differ only in the generator."
    )


def _tiles(
    spec: StudySpec, summary: StudySummary, trials: Trials, confirmed: Sequence[Result]
) -> list[tuple[str | int, str]]:
    epochs = epochs_of(trials)
    finished = sum(trial.state in ("COMPLETE", "PRUNED") for trial in trials)
    return [
        _winner_tile(OBJECTIVES[spec.metrics.objective], trials, confirmed),
        (f"{finished} of {summary.total}", "trials complete or pruned"),
        *((len(group), mark.name) for mark, group in reversed(by_outcome(trials))),
        (duration(epochs.seconds), "device time"),
        (f"{epochs.evaluation_share:.0%}", "of it evaluating"),
        (f"{len(epochs):,}", "epochs trained"),
    ]


def _winner_tile(metric: str, trials: Trials, confirmed: Sequence[Result]) -> tuple[str | int, str]:
    """The value of ``winner_of``."""
    winner = winner_of(trials, confirmed)
    if not winner:
        return number(None), f"best {metric}"
    if confirmed and winner[0] is confirmed[0].trial:
        value = confirmed[0].value
        return number(value.mean), f"{metric}, trial {winner[0].number}, mean of {value.n} seeds"
    return number(winner[0].value), f"best {metric}, trial {winner[0].number}, one seed"


def _plots(spec: StudySpec, trials: Trials, winner: Trials) -> dict[str, list[tuple[str, Markup]]]:
    """The titles and HTML of the plots of each section of the page."""
    plots: dict[str, list[tuple[str, Markup]]] = {}
    for plot in PLOTS.values():
        if plot.section is not None and (spec.metrics.several or not plot.several):
            plots.setdefault(plot.section, []).append(_titled(plot.draw(spec, trials)))
    plots.setdefault("best", []).extend(_titled(trial_curves(spec, trial)) for trial in winner)
    return plots


def _titled(figure: Figure) -> tuple[str, Markup]:
    """A plot's title and its HTML, which leaves the title to the page."""
    title = figure.layout.title.text
    # On a phone, dragging then scrolls the page; the plot's buttons still zoom.
    figure.update_layout(title=None, margin_t=28, dragmode=False)
    config = {"displaylogo": False, "responsive": True}
    html = figure.to_html(full_html=False, include_plotlyjs=False, config=config)
    return title, Markup(html)


def _importance(spec: StudySpec, trials: Trials) -> tuple[Markup | None, str]:
    """The plot of importances, if they can be computed, and a note about them."""
    found = importances(spec, trials)
    if found.missing:
        return None, f"Not computed: {found.missing}."
    note = (
        f"How much each parameter's values differ between the best and all of {found.trials} "
        "complete trials (PED-ANOVA), as a share of the sum; unreliable with few trials."
    )
    return _titled(parameters.importances(spec, trials, found))[1], note
