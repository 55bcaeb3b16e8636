"""Commands that only look: check, list, status, trials, compare."""

from typing import Annotated

import typer

from tuner.cli.main import (
    Allow,
    AsJson,
    Data,
    File,
    Storage,
    StudyName,
    Weights,
    app,
    err,
    open_study,
    out,
    print_json,
)
from tuner.cli.watching import EVERY, LONGEST, SHORTEST, check_every, watch
from tuner.errors import InputError
from tuner.places import STORAGE, Local
from tuner.specfile import load_spec
from tuner.study.creation import summaries
from tuner.study.database import Database
from tuner.study.fingerprint import incomparable
from tuner.study.store import best_of
from tuner.views import report, studies
from tuner.views.progress import PlainProgress

Watching = Annotated[
    bool, typer.Option("--watch", help="Go on showing it until it has ended, or Ctrl-C.")
]
Every = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        show_default=False,
        help=f"Pause of --watch, {SHORTEST:g} to {LONGEST:g}; by default {EVERY:g}.",
    ),
]


@app.command()
def check(
    file: File,
    data: Data = None,
    weights: Weights = None,
    allow: Allow = None,
    as_json: AsJson = False,
) -> None:
    """Check a study file; show its space, its programs and what the largest needs.

    Example: tuner check studies/quickstart.toml
    """
    spec = load_spec(file)
    from tuner.run.planning import plan

    local = Local(data, weights, tuple(allow or ()))
    found = plan(spec, local, PlainProgress(err).announce)
    if as_json:
        print_json({"spec": spec.model_dump(mode="json"), **found})
        return
    out.print(studies.space_table(spec))
    out.print(report.plan(spec, found), soft_wrap=True)


@app.command("list")
def list_studies(storage: Storage = STORAGE, as_json: AsJson = False) -> None:
    """Show the studies in the database.

    Example: tuner list
    """
    found = summaries(Database(storage))
    if as_json:
        print_json([study._asdict() for study in found])
    else:
        out.print(studies.study_table(found))


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", show_default=False)] = None,
    storage: Storage = STORAGE,
    watching: Watching = False,
    every: Every = None,
    as_json: AsJson = False,
) -> None:
    """Show how far a study is, its workers and running trials; without a name, every study.

    Example: tuner status quickstart --watch
    """
    if watching:
        _watch(name, storage, EVERY if every is None else every, as_json)
        return
    if every is not None:
        raise InputError("--every: found it without --watch, expected both")
    if name is None:
        list_studies(storage, as_json)
        return
    store = open_study(storage, name)
    trials, workers, summary = store.trials(), store.workers(), store.summary()
    objective = store.spec.metrics.objective
    running = [trial for trial in trials if trial.state == "RUNNING"]
    if as_json:
        values = [studies.trial_values(trial) for trial in running]
        about = {"running": values, "workers": [worker._asdict() for worker in workers]}
        print_json(summary._asdict() | {"measured_as": store.fingerprint()} | about)
        return
    out.print(studies.study_table([summary]))
    if workers:
        out.print()
        out.print(studies.worker_table(workers))
    if running:
        out.print()
        out.print(studies.trial_table(running, objective))
    out.print(report.best_line(trials, objective))
    out.print(report.measured_as(store.fingerprint(), str(summary.fingerprint)), soft_wrap=True)
    if trials:
        out.print(report.cost(trials))


def _watch(name: str | None, storage: str, every: float, as_json: bool) -> None:
    if name is None:
        raise InputError("--watch: found no study's name, expected one: tuner status NAME --watch")
    if as_json:
        raise InputError("--watch: found --json too, expected one of the two")
    check_every(every)
    watch(open_study(storage, name), every)


@app.command()
def trials(name: StudyName, storage: Storage = STORAGE, as_json: AsJson = False) -> None:
    """Show every trial: its parameters, how it went, why it ended.

    Example: tuner trials quickstart
    """
    store = open_study(storage, name)
    found = store.trials()
    if as_json:
        print_json([studies.trial_values(trial) for trial in found])
    else:
        best = best_of(found)
        objective = store.spec.metrics.objective
        out.print(studies.trial_table(found, objective, best and best.number))


@app.command()
def compare(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", show_default=False)],
    storage: Storage = STORAGE,
    as_json: AsJson = False,
) -> None:
    """Compare the best trials of studies whose numbers mean the same.

    Example: tuner compare quickstart narrow
    """
    stores = [open_study(storage, name) for name in dict.fromkeys(names)]
    if len(stores) < 2:
        raise InputError(f"found {len(stores)} study, expected two or more to compare")
    parts = [
        (store.name, {"objective": spec.metrics.objective, "value": spec.study.value} | known)
        for store, spec, known in ((store, store.spec, store.fingerprint()) for store in stores)
    ]
    why_not = incomparable(parts)
    if why_not:
        raise InputError(f"these studies can't be compared: {why_not}")
    bests = sorted([(store.name, store.best()) for store in stores], key=lambda b: b[1].value or 0)
    if as_json:
        print_json([{"study": name} | studies.trial_values(trial) for name, trial in bests])
    else:
        out.print(studies.comparison_table(bests, parts[0][1]["objective"]))
