"""Commands that only look: check, list, status, trials."""

from typing import Annotated

import typer

from tuner.cli.main import AsJson, File, Storage, StudyName, app, open_study, out, print_json
from tuner.places import STORAGE
from tuner.specfile import load_spec
from tuner.study.creation import summaries
from tuner.study.database import Database
from tuner.study.store import best_of
from tuner.views import report, studies


@app.command()
def check(file: File, as_json: AsJson = False) -> None:
    """Check a study file; show its space, its programs and what the largest needs.

    Example: tuner check studies/quickstart.toml
    """
    spec = load_spec(file)
    from tuner.run.planning import plan

    found = plan(spec)
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
    as_json: AsJson = False,
) -> None:
    """Show how far a study is, its workers and running trials; without a name, every study.

    Example: tuner status quickstart
    """
    if name is None:
        list_studies(storage, as_json)
        return
    store = open_study(storage, name)
    trials, workers = store.trials(), store.workers()
    running = [trial for trial in trials if trial.state == "RUNNING"]
    if as_json:
        values = [studies.trial_values(trial) for trial in running]
        about = {"running": values, "workers": [worker._asdict() for worker in workers]}
        print_json(store.summary()._asdict() | about)
        return
    out.print(studies.study_table([store.summary()]))
    if workers:
        out.print()
        out.print(studies.worker_table(workers))
    if running:
        out.print()
        out.print(studies.trial_table(running))
    out.print(report.best_line(trials))


@app.command()
def trials(name: StudyName, storage: Storage = STORAGE, as_json: AsJson = False) -> None:
    """Show every trial: its parameters, how it went, why it ended.

    Example: tuner trials quickstart
    """
    found = open_study(storage, name).trials()
    if as_json:
        print_json([studies.trial_values(trial) for trial in found])
    else:
        best = best_of(found)
        out.print(studies.trial_table(found, best and best.number))
