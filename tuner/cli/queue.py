"""``tuner queue`` and ``dequeue``: list the trials that are waiting, and remove queued ones."""

from typing import Annotated

import typer

from tuner.cli.app import Task, command, out, print_json
from tuner.cli.completion import queued_trials
from tuner.cli.options import AsJson, Storage, StudyName, open_study
from tuner.cli.steer import print_no_worker
from tuner.environment import STORAGE
from tuner.errors import InputError
from tuner.study import steering
from tuner.study.snapshot import StudyPoller
from tuner.study.upcoming import upcoming
from tuner.views.budgets import end_line
from tuner.views.queue import queue_lines, queue_table


@command(Task.STEER)
def queue(name: StudyName, storage: Storage = STORAGE, as_json: AsJson = False) -> None:
    """List the trials that are waiting for a worker.

    Workers take them in this order: first trials that were released or lost their worker, then
    those queued by the study file or by hand. After that, the sampler chooses new ones.

    Example: tuner queue quickstart
    """
    store = open_study(storage, name)
    waiting, snapshot = upcoming(store), StudyPoller(store).snapshot()
    spent = snapshot.budget.reason is not None
    new = 0 if spent else max(0, snapshot.to_begin - sum(one.queued for one in waiting))
    if as_json:
        values = [one._asdict() for one in waiting]
        print_json({"waiting": values, "paused": snapshot.counts["paused"], "new": new})
        return
    if waiting:
        out.print(queue_table(waiting))
    for line in queue_lines(waiting, snapshot.counts["paused"], new, store.spec.sampler.name):
        out.print(line)
    if spent and store.remaining() > 0:
        out.print(end_line(name, snapshot.budget, store.unfinished()), soft_wrap=True)
    print_no_worker(store, snapshot.workers)


@command(Task.STEER)
def dequeue(
    name: StudyName,
    trials: Annotated[
        list[int] | None,
        typer.Argument(
            metavar="TRIAL...",
            min=0,
            help="Numbers of queued trials.",
            autocompletion=queued_trials,
        ),
    ] = None,
    storage: Storage = STORAGE,
    every: Annotated[bool, typer.Option("--all", help="Remove all queued trials.")] = False,
) -> None:
    """Remove trials from the queue.

    They end as failed, so they do not count towards the study's total: the sampler replaces them.

    Example: tuner dequeue quickstart 7
    """
    if bool(trials) == every:
        raise InputError("dequeue needs either the numbers of queued trials or --all")
    store = open_study(storage, name)
    numbers = trials or [one.number for one in upcoming(store) if one.queued]
    if not numbers:
        out.print(f"Study {name!r} has no queued trials.")
        return
    steering.dequeue(store, numbers)
    removed = sorted(set(numbers))
    what = f"trial{'s' * (len(removed) > 1)} {', '.join(map(str, removed))}"
    out.print(f"Removed {what} from the queue of study {name!r}.")
