"""Arguments and options that several commands share."""

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from tuner.cli.completion import begun_trials, study_names
from tuner.environment import (
    ARTIFACTS_VARIABLE,
    METRICS_HOST_VARIABLE,
    METRICS_PORT_VARIABLE,
    STORAGE_VARIABLE,
)
from tuner.errors import InputError
from tuner.spec.study import MOST_TRIALS
from tuner.study.database import Database
from tuner.study.store import StudyStore
from tuner.worker_command import AUTO

MOST_PER_DEVICE = 48  # clients of CUDA MPS on one GPU
MAX_DURATION = 3650 * 86_400.0  # seconds; Python's timers overflow at 292 years


def parse_duration(text: str) -> float:
    """Parse ``90``, ``90s``, ``30m``, ``8h``, ``1h30m`` as seconds; InputError for other text."""
    number = "([0-9]{1,9})"
    parts = re.fullmatch(f"(?:{number}d)?(?:{number}h)?(?:{number}m)?(?:{number}s?)?", text)
    if not text or parts is None:
        shown = text if len(text) <= 40 else f"{text[:40]}..."
        raise InputError(f"invalid duration {shown!r}; write it like 90s, 30m or 1h30m")
    units = (86_400, 3600, 60, 1)
    seconds = float(sum(int(n) * unit for n, unit in zip(parts.groups("0"), units, strict=True)))
    if seconds > MAX_DURATION:
        raise InputError(f"duration {text!r} is too long: at most 3650d")
    return seconds


def parse_workers_per_device(text: str) -> int:
    """Parse ``3``, or ``auto`` as ``AUTO``; InputError for other text."""
    if text == "auto":
        return AUTO
    if text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= MOST_PER_DEVICE:
        return int(text)
    shown = text if len(text) <= 40 else f"{text[:40]}..."
    raise InputError(
        f"--workers-per-device: found {shown!r}, expected 1 to {MOST_PER_DEVICE}, or auto"
    )


File = Annotated[Path, typer.Argument(metavar="STUDY.toml", help="Study file.")]
StudyName = Annotated[
    str,
    typer.Argument(metavar="NAME", help="Name of the study.", autocompletion=study_names),
]
TrialNumber = Annotated[
    int,
    typer.Argument(
        metavar="TRIAL",
        min=0,
        help="Number of the trial.",
        autocompletion=begun_trials,
    ),
]
Storage = Annotated[
    str,
    typer.Option(
        metavar="URL",
        envvar=STORAGE_VARIABLE,
        help="Study database: sqlite:///FILE or postgresql://USER@HOST/DATABASE.",
    ),
]
Artifacts = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar=ARTIFACTS_VARIABLE,
        help="Artifact store: a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX. "
        "Default: the study's; for a new study tuner-data/artifacts.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="Path of the images on this machine. Default: TUNER_DATA, else the study's.",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Weights of inception, dinov2 or clip on this machine. Default: TUNER_WEIGHTS, else "
        "the study's.",
    ),
]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PACKAGE",
        help="Package that custom networks and metrics may be imported from. Can be repeated.",
    ),
]
Trials = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, max=MOST_TRIALS, help="Raise the study's total number of trials to N."
    ),
]
MaxTime = Annotated[
    float | None,
    typer.Option(
        parser=parse_duration,
        metavar="DURATION",
        help="Stop after this time, at the end of the current epoch, e.g. 90s, 30m, 8h.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=256,
        help="Number of worker processes. Default: one per accelerator.",
    ),
]
Respawn = Annotated[int, typer.Option(metavar="N", min=0, help="Replace up to N dead workers.")]
ExitWhenIdle = Annotated[
    bool,
    typer.Option(
        "--exit-when-idle",
        help="Exit when no trial can be claimed, instead of waiting for the study to end.",
    ),
]
MaxTrials = Annotated[int | None, typer.Option(metavar="N", min=1, help="Exit after N trials.")]
Grace = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        min=0,
        help="Seconds to let the current epoch finish after a stop request.",
    ),
]
WorkersPerDevice = Annotated[
    int | None,
    typer.Option(
        parser=parse_workers_per_device,
        metavar="N|auto",
        help="Worker processes on each GPU, which share its memory. auto: as many as pay: one more "
        "as long as that trains 10% faster. On a CPU: N worker processes.",
    ),
]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        metavar="PORT",
        min=0,
        max=65535,
        envvar=METRICS_PORT_VARIABLE,
        help="Serve Prometheus metrics on this port; several workers of a sweep use consecutive "
        "ports from this one. 0: any free port.",
    ),
]
MetricsHost = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS",
        envvar=METRICS_HOST_VARIABLE,
        help="Address to serve metrics on, without a login.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def database_words(database: Database) -> list[str]:
    """Options that name the database in a suggested command, if this command line names it."""
    if any(word.startswith("--storage") for word in sys.argv):
        return ["--storage", database.address.shareable_url]
    return []


def open_study(storage: str, name: str) -> StudyStore:
    """Open an existing study; InputError if there is none."""
    return StudyStore(Database(storage), name)
