"""The command that asks how early one could have pruned: replay."""

from pathlib import Path
from typing import Annotated

import typer

from tuner import policies
from tuner.cli.main import AsJson, Storage, StudyName, app, open_study, out, print_json
from tuner.errors import InputError
from tuner.places import STORAGE
from tuner.policies import PrunerSpec
from tuner.spec import OBJECTIVES
from tuner.study import replay as replays
from tuner.study.store import StudyStore
from tuner.views import replay as views

USUAL: tuple[PrunerSpec, ...] = (
    policies.NoPruner(),
    policies.MedianPruner(),
    policies.PercentilePruner(),
    policies.SuccessiveHalvingPruner(),
    policies.HyperbandPruner(),
)


Pruners = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME:KEY=VALUE,...",
        show_default=False,
        help="A pruner, as in a study file; may be given again. By default the study's own "
        "and each kind with its default settings.",
    ),
]
Shuffles = Annotated[
    int, typer.Option(metavar="N", min=0, max=10_000, help="Orders besides the recorded one.")
]
Plot = Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write a page of plots.")]


@app.command()
def replay(
    name: StudyName,
    storage: Storage = STORAGE,
    pruner: Pruners = None,
    shuffles: Shuffles = 20,
    as_json: AsJson = False,
    plot: Plot = None,
) -> None:
    """Show how early the recorded trials could have been pruned, and what that would have cost.

    Nothing is trained: pruners are asked about the recorded curves. What they would have made the
    sampler choose instead can't be known.

    Example: tuner replay quickstart --pruner median --pruner hyperband:reduction_factor=2
    """
    store = open_study(storage, name)
    pruners = _pruners(store, pruner or [])
    curves = _curves(store)
    correlations = replays.rank_correlations(curves)
    orders = 1 + shuffles
    outcomes = [replays.replay(curves, one, store.spec, orders) for one in pruners]
    if plot is not None:
        metric = OBJECTIVES[store.spec.metrics.objective]
        _write(plot, views.page(name, metric, curves, correlations, outcomes))
    if as_json:
        values = {"study": name, "correlations": [found._asdict() for found in correlations]}
        print_json(values | {"pruners": [outcome._asdict() for outcome in outcomes]})
        return
    out.print("How well each epoch ranks the trials as the last one does:\n")
    out.print(views.correlation_table(correlations))
    out.print(f"\nWhat pruners would have done to {len(curves)} trials, in {orders} orders:\n")
    out.print(views.outcome_table(outcomes))
    warning = views.caution(curves, store.spec.pruner.name)
    if warning is not None:
        out.print(f"\n{warning}", soft_wrap=True)


def _pruners(store: StudyStore, texts: list[str]) -> list[PrunerSpec]:
    """Those that were asked for; else the study's own, and each kind that needs no settings."""
    spec = store.spec
    if not texts:
        return [spec.pruner, *(one for one in USUAL if one != spec.pruner)]
    study = spec.study.model_copy(update={"trials": store.total})
    spec = spec.model_copy(update={"study": study})
    return [replays.parse_pruner(text, spec) for text in texts]


def _curves(store: StudyStore) -> list[replays.Curve]:
    """Those of all trials; InputError where none is whole."""
    objective, keeps_best = store.spec.metrics.objective, store.spec.study.value == "best"
    curves = replays.curves_of(store.trials(), objective, keeps_best)
    if replays.winner_of(curves) is None:
        raise InputError(
            f"study {store.name!r}: found no trial that reached its last epoch, "
            "expected at least one"
        )
    return curves


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--plot: {path} can't be written: {error.strerror}") from None
