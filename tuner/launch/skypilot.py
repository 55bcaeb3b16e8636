"""A SkyPilot task: one worker on a machine of any cloud."""

import shlex
from collections.abc import Sequence

from tuner.launch.workers import Workers, render


def task(
    workers: Workers,
    *,
    accelerator: str | None,
    cpus: str,
    spot: bool,
    extras: Sequence[str] = (),
) -> str:
    """YAML of a managed job that runs one worker until the study has ended.

    ``extras`` are installed in addition to those for stores, the demo and the accelerator.
    """
    installed = ",".join(["demo", "s3", "gs", *(["cuda12"] if accelerator else []), *extras])
    command = shlex.join(workers.command)
    return render(
        "skypilot.yaml",
        workers=workers,
        command=command,
        accelerator=accelerator,
        cpus=cpus,
        spot=spot,
        extras=installed,
    )
