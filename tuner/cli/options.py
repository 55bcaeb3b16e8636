"""Arguments and options that several commands share."""

import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tuner.cli.completion import begun_trials, study_names
from tuner.environment import (
    ARTIFACTS_VARIABLE,
    METRICS_HOST_VARIABLE,
    METRICS_PORT_VARIABLE,
    STORAGE_VARIABLE,
)
from tuner.errors import InputError
from tuner.spec.study import MAX_TRIALS
from tuner.study.database import Database
from tuner.study.store import StudyStore
from tuner.worker_command import AUTO

MAX_PER_DEVICE = 48  # clients of CUDA MPS on one GPU
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
    if text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= MAX_PER_DEVICE:
        return int(text)
    shown = text if len(text) <= 40 else f"{text[:40]}..."
    raise InputError(
        f"--workers-per-device: found {shown!r}, expected 1 to {MAX_PER_DEVICE}, or auto"
    )


def option(metavar: str, text: str, *names: str, **settings: Any) -> Any:
    """An option with a value, and its line of help."""
    return typer.Option(*names, metavar=metavar, help=text, **settings)


File = Annotated[Path, typer.Argument(metavar="STUDY.toml", help="Study file.")]
StudyName = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the study.", autocompletion=study_names)
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
    option(
        "URL",
        "Study database: sqlite:///FILE or postgresql://USER@HOST/DATABASE.",
        envvar=STORAGE_VARIABLE,
    ),
]
Artifacts = Annotated[
    str | None,
    option(
        "URL",
        "Artifact store: a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX. "
        "Default: the study's; for a new study tuner-data/artifacts.",
        envvar=ARTIFACTS_VARIABLE,
    ),
]
Data = Annotated[
    str | None,
    option("FOLDER", "Path of the images on this machine. Default: TUNER_DATA, else the study's."),
]
Weights = Annotated[
    str | None,
    option(
        "FILE",
        "Weights of inception, dinov2 or clip on this machine. Default: TUNER_WEIGHTS, else "
        "the study's.",
    ),
]
Allow = Annotated[
    list[str] | None,
    option(
        "PACKAGE", "Package that custom networks and metrics may be imported from. Can be repeated."
    ),
]
Trials = Annotated[
    int | None,
    option("N", "Raise the study's total number of trials to N.", min=1, max=MAX_TRIALS),
]
MaxTime = Annotated[
    float | None,
    option(
        "DURATION",
        "Stop after this time, at the end of the current epoch, e.g. 90s, 30m, 8h.",
        parser=parse_duration,
    ),
]
Workers = Annotated[
    int | None,
    option("N", "Number of worker processes. Default: one per accelerator.", min=1, max=256),
]
Respawn = Annotated[int, option("N", "Replace up to N dead workers.", min=0)]
ExitWhenIdle = Annotated[
    bool,
    typer.Option(
        "--exit-when-idle",
        help="Exit when no trial can be claimed, instead of waiting for the study to end.",
    ),
]
MaxTrials = Annotated[int | None, option("N", "Exit after N trials.", min=1)]
Grace = Annotated[
    float, option("SECONDS", "Seconds to let the current epoch finish after a stop request.", min=0)
]
WorkersPerDevice = Annotated[
    int | None,
    option(
        "N|auto",
        "Worker processes on each GPU, which share its memory. auto: add workers as long as one "
        "more per GPU trains 10% faster. On a CPU: N worker processes.",
        parser=parse_workers_per_device,
    ),
]
MetricsPort = Annotated[
    int | None,
    option(
        "PORT",
        "Serve Prometheus metrics on this port; several workers of a sweep use consecutive "
        "ports from this one. 0: any free port.",
        min=0,
        max=65535,
        envvar=METRICS_PORT_VARIABLE,
    ),
]
MetricsHost = Annotated[
    str,
    option(
        "ADDRESS", "Address to serve metrics on, without a login.", envvar=METRICS_HOST_VARIABLE
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
