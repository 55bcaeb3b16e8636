"""``tuner pause`` and ``tuner resume``: put a study on hold, and resume it."""

from tuner import hints
from tuner.cli.app import Task, command, out
from tuner.cli.options import Storage, StudyName, open_study
from tuner.cli.steer import running_workers
from tuner.environment import STORAGE


@command(Task.STEER)
def pause(name: StudyName, storage: Storage = STORAGE) -> None:
    """Put a study on hold: workers wait after their epoch.

    They save a checkpoint, release their trials and wait for `tuner resume`; so do workers that
    join meanwhile. To free their devices, use `tuner stop`. This is unrelated to trials that the
    pruner asha has paused.

    Example: tuner pause quickstart
    """
    store = open_study(storage, name)
    if store.on_hold:
        out.print(f"Study {name!r} is on hold already.")
        return
    store.hold()
    running = running_workers(store)
    what = f"{running} will wait after the current epoch" if running else "no workers are running"
    resume = hints.command("resume", name)
    out.print(f"Study {name!r} is on hold; {what}. To resume it: {resume}", soft_wrap=True)


@command(Task.STEER)
def resume(name: StudyName, storage: Storage = STORAGE) -> None:
    """Resume a study that is on hold.

    Workers that wait resume the trials that they released, from their checkpoints.

    Example: tuner resume quickstart
    """
    store = open_study(storage, name)
    if not store.on_hold:
        out.print(f"Study {name!r} is not on hold.")
        return
    store.end_hold()
    running = running_workers(store)
    start = hints.command("worker", name)
    what = f"with {running}." if running else f"but no workers are running; to start one: {start}"
    out.print(f"Study {name!r} is resumed, {what}", soft_wrap=True)
