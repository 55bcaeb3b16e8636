"""``tuner launch skypilot``: run workers as managed jobs of SkyPilot."""

import shutil
import subprocess
import sys
import tempfile
from typing import Annotated

import typer

from tuner.cli.app import out
from tuner.cli.launch import launch
from tuner.cli.launch_kubernetes import Count, Render
from tuner.cli.options import Allow, Artifacts, Storage, StudyName, option
from tuner.environment import STORAGE
from tuner.errors import InputError, TunerError
from tuner.launch.skypilot import task
from tuner.launch.workers import Workers, remote_artifacts, remote_storage
from tuner.run.signals import GRACE


@launch.command()
def skypilot(
    name: StudyName,
    storage: Storage = STORAGE,
    artifacts: Artifacts = None,
    workers: Count = 1,
    accelerator: Annotated[str | None, option("TYPE:N", "GPU of each worker, e.g. L4:1.")] = None,
    cpus: Annotated[str, option("N", "CPU cores of each worker; 4+ means at least 4.")] = "4+",
    spot: Annotated[
        bool, typer.Option("--spot/--on-demand", help="Spot or on-demand machines.")
    ] = True,
    extras: Annotated[
        list[str] | None,
        option("NAME", "Extra of tuner to install, e.g. tensorboard. Can be repeated.", "--extra"),
    ] = None,
    allow: Allow = None,
    render: Render = False,
) -> None:
    """Run each worker as a managed job of SkyPilot.

    Submits jobs with sky, from a checkout of tuner. SkyPilot restarts workers that lose their
    machine. The database's password is taken from PGPASSWORD.

    Example: tuner launch skypilot quickstart --workers 16 --accelerator L4:1 --render
    """
    bucket, packages = remote_artifacts(artifacts), tuple(allow or ())
    found = Workers(name, workers, remote_storage(storage), bucket, GRACE, packages)
    text = task(found, accelerator=accelerator, cpus=cpus, spot=spot, extras=extras or [])
    if render:
        sys.stdout.write(text)
        return
    sky = shutil.which("sky")
    if sky is None:
        raise InputError(
            "sky is not installed; install it with pip install skypilot, or pass --render and "
            "submit the output"
        )
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        words = [sky, "jobs", "launch", "--yes", "--detach-run", "--secret", "PGPASSWORD"]
        for number in range(workers):
            done = subprocess.run([*words, file.name], stdin=subprocess.DEVNULL, check=False)
            if done.returncode != 0:
                raise TunerError(f"sky submitted {number} of {workers} workers; see above")
    out.print("To see the workers: sky jobs queue. To stop them: sky jobs cancel", soft_wrap=True)
