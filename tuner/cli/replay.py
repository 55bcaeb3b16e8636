"""``tuner replay``: other pruners, applied to the recorded learning curves."""

from pathlib import Path
from typing import Annotated

from tuner.cli.app import Task, command, out, print_json
from tuner.cli.options import AsJson, Storage, StudyName, open_study, option
from tuner.cli.writing import check_target, write_output
from tuner.environment import STORAGE
from tuner.errors import InputError
from tuner.spec import pruners as pruner_sections
from tuner.spec.metrics import ALL_OBJECTIVES, OBJECTIVES
from tuner.spec.pruners import PrunerSpec
from tuner.study import curves as recorded
from tuner.study import replay as replays
from tuner.study.store import StudyStore
from tuner.views import replay as views

DEFAULT_PRUNERS: tuple[PrunerSpec, ...] = (
    pruner_sections.NoPruner(),
    pruner_sections.MedianPruner(),
    pruner_sections.PercentilePruner(),
    pruner_sections.SuccessiveHalvingPruner(),
    pruner_sections.HyperbandPruner(),
    pruner_sections.AshaPruner(),
)
Pruners = Annotated[
    list[str] | None,
    option(
        "NAME:KEY=VALUE,...",
        "Pruner to apply, with the keys of a study file. Can be repeated. Default: the "
        "study's own, and each kind with its default settings.",
    ),
]
Shuffles = Annotated[
    int,
    option(
        "N", "Number of random trial orders, in addition to the recorded one.", min=0, max=10_000
    ),
]
Plot = Annotated[Path | None, option("FILE.html", "HTML file to write plots to.", "--plot", "-o")]


@command(Task.RESULTS)
def replay(
    name: StudyName,
    storage: Storage = STORAGE,
    pruner: Pruners = None,
    shuffles: Shuffles = 20,
    as_json: AsJson = False,
    plot: Plot = None,
) -> None:
    """Estimate what other pruners would have saved.

    Nothing is trained: the pruners are applied to the recorded learning curves. The replay can't
    show which other parameters the sampler would then have chosen.

    Example: tuner replay quickstart --pruner median
    """
    plot = None if plot is None else check_target(plot, option="--plot")
    store = open_study(storage, name)
    spec, objective = store.spec, store.spec.metrics.objective
    if ALL_OBJECTIVES[objective].higher:
        text = f"its first objective, {objective}, is maximised"
        raise InputError(f"study {name!r}: {text}; replay compares only values that are minimised")
    pruners = _pruners(store, pruner or [])
    curves = recorded.curves_of(store.trials(), objective, spec.study.value == "best")
    if recorded.winner_of(curves) is None:
        raise InputError(
            f"study {name!r} has no trial that reached its last epoch; replay needs one"
        )
    correlations = recorded.rank_correlations(curves)
    orders = 1 + shuffles
    outcomes = [replays.replay(curves, one, spec, orders) for one in pruners]
    if plot is not None:
        page = views.page(name, OBJECTIVES[objective], curves, correlations, outcomes)
        write_output(plot, page.encode(), option="--plot")
    if as_json:
        values = {"study": name, "correlations": [found._asdict() for found in correlations]}
        print_json(values | {"pruners": [outcome._asdict() for outcome in outcomes]})
        return
    out.print("How well each epoch's ranking of the trials agrees with the last epoch's:\n")
    out.print(views.correlation_table(correlations))
    out.print(f"\nWhat each pruner would have done to {len(curves)} trials in {orders} orders:\n")
    out.print(views.outcome_table(outcomes))
    if warning := views.caution(curves, spec.pruner.name):
        out.print(f"\n{warning}", soft_wrap=True)


def _pruners(store: StudyStore, texts: list[str]) -> list[PrunerSpec]:
    """The given pruners; by default the study's own and ``DEFAULT_PRUNERS``."""
    spec = store.spec
    if not texts:
        return [spec.pruner, *(one for one in DEFAULT_PRUNERS if one != spec.pruner)]
    study = spec.study.model_copy(update={"trials": store.total})
    spec = spec.model_copy(update={"study": study})
    return [replays.parse_pruner(text, spec) for text in texts]
