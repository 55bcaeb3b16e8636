"""``tuner confirm`` and ``noise``: confirm the winner with several seeds; estimate seed noise."""

from typing import Annotated

from tuner import hints
from tuner.cli.app import Task, command, out, print_json
from tuner.cli.edit import editor
from tuner.cli.options import (
    Allow,
    Artifacts,
    AsJson,
    Data,
    MaxTime,
    Respawn,
    Storage,
    StudyName,
    Weights,
    Workers,
    WorkersPerDevice,
    open_study,
    option,
)
from tuner.cli.processes import plan_processes
from tuner.cli.run import run_study
from tuner.data.listing import check_data_option
from tuner.environment import STORAGE, MachineOptions
from tuner.errors import InputError
from tuner.study import edits
from tuner.study.seed_noise import seed_noise
from tuner.study.store import StudyStore
from tuner.views import confirmations
from tuner.views.budgets import raised_limits
from tuner.worker_command import WorkerCommand

Top = Annotated[
    int | None,
    option("N", "Configurations to train again. Default: the study's, or 3.", min=1, max=100),
]
Seeds = Annotated[
    int | None, option("N", "Seeds for each, at most. Default: the study's, or 5.", min=2, max=1000)
]


@command(Task.RUN, uses_jax=True)
def confirm(
    name: StudyName,
    top: Top = None,
    seeds: Seeds = None,
    storage: Storage = STORAGE,
    artifacts: Artifacts = None,
    workers: Workers = None,
    workers_per_device: WorkersPerDevice = None,
    respawn: Respawn = 0,
    data: Data = None,
    weights: Weights = None,
    allow: Allow = None,
    max_time: MaxTime = None,
) -> None:
    """Train the best configurations again, with fresh seeds.

    For a study whose search has ended. A configuration that can no longer be the best gets no
    further seed. Other workers may join. Ctrl-C stops; the same command resumes.

    Example: tuner confirm quickstart --top 3 --seeds 5
    """
    from tuner.files.study_files import open_files

    processes = plan_processes(workers, workers_per_device)
    store = open_study(storage, name)
    check_data_option(store.spec.data, data)
    wanted = {"top": top or store.spec.confirm.top or 3, "seeds": seeds or store.spec.confirm.seeds}
    _check_ended(store, (wanted["top"] + 1) * wanted["seeds"])
    edits.edit(store, [f"confirm.{key}={value}" for key, value in wanted.items()], editor())
    options = MachineOptions(data, weights, tuple(allow or ()))
    each, files = WorkerCommand(name, artifacts, options), open_files(store, artifacts)
    run_study(store, files, storage, each, processes, respawn, max_time)


def _check_ended(store: StudyStore, runs: int) -> None:
    """Raise InputError unless the search has ended; ``runs`` is the number of runs to train."""
    if (left := store.search_remaining()) <= 0:
        return
    text, budget = f"study {store.name!r}: {left} of {store.total} trials are left", store.budget()
    if budget.reason is None:
        finish = hints.command("worker", store.name)
        raise InputError(f"{text}; finish the search first: {finish}")
    fewer = f"study.trials={max(1, store.total - left)}"
    edit = hints.command("edit", store.name, fewer, *raised_limits(budget, runs))
    raise InputError(f"{text}, but {budget.reason}; to end the search here, run: {edit}")


@command(Task.RESULTS)
def noise(name: StudyName, storage: Storage = STORAGE, as_json: AsJson = False) -> None:
    """Show how much of the spread between trials is seed noise.

    Estimated from trials with the same parameters, such as the runs of a confirmation; without
    them, an upper bound from the most similar trials.

    Example: tuner noise quickstart
    """
    store = open_study(storage, name)
    found = seed_noise(store.spec, [*store.trials(), *store.confirmation_trials()])
    if as_json:
        print_json(found._asdict())
        return
    for line in confirmations.noise_lines(found, store.spec):
        out.print(line, soft_wrap=True)
    if found.deviation is None and not store.spec.metrics.several:
        again = hints.command("confirm", name)
        out.print(f"To measure it: {again}", soft_wrap=True)
