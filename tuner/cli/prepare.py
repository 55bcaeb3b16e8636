"""``tuner check``, ``schema``, ``convert-inception`` and ``db upgrade``."""

import hashlib
from pathlib import Path
from typing import Annotated

import typer

from tuner.cli.app import Task, app, command, err, out, print_json
from tuner.cli.options import Allow, AsJson, Data, File, Storage, Weights, option
from tuner.cli.writing import check_target, write_output
from tuner.environment import STORAGE, MachineOptions
from tuner.notify.sender import check_sender
from tuner.paths import local_path
from tuner.spec.loading import load_spec
from tuner.spec.metrics import INCEPTION_SHA256
from tuner.spec.study import study_file_schema
from tuner.study import database
from tuner.study.connections import Address
from tuner.tracking.sink import check_trackers
from tuner.views import studies
from tuner.views.plan import plan_text
from tuner.views.progress import PlainProgress

db = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Maintain the database.\n\nExample: tuner db upgrade",
)
app.add_typer(db, name="db", rich_help_panel=Task.PREPARE)


@command(Task.PREPARE, uses_jax=True)
def check(
    file: File,
    data: Data = None,
    weights: Weights = None,
    allow: Allow = None,
    as_json: AsJson = False,
) -> None:
    """Validate a study file and show what it will cost.

    Shows the search space, the programs to compile, and the memory of the largest one.

    Example: tuner check studies/quickstart.toml
    """
    spec = load_spec(file)
    check_trackers(spec.tracking.to)
    check_sender(spec.notify.on)
    from tuner.run.planning import plan

    options = MachineOptions(data, weights, tuple(allow or ()))
    found = plan(spec, options, PlainProgress(err).announce)
    if as_json:
        print_json({"spec": spec.model_dump(mode="json"), **found})
        return
    out.print(studies.space_table(spec))
    out.print(plan_text(spec, found), soft_wrap=True)


@command(Task.PREPARE)
def schema() -> None:
    """Print the JSON Schema of study files.

    Editors use it to complete and check study files.

    Example: tuner schema > study-file.schema.json
    """
    print_json(study_file_schema())


@command(Task.PREPARE)
def convert_inception(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Weights published for PyTorch.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="File to write.")],
    sha256: Annotated[
        str | None, option("HASH", "Expected SHA-256 of IN. Default: the published file's.")
    ] = None,
) -> None:
    """Convert PyTorch's Inception weights to safetensors.

    Workers read the converted file without PyTorch.

    Example: tuner convert-inception pt_inception-2015-12-05-6726825d.pth inception.safetensors
    """
    from tuner.files.inception_weights import convert_inception as convert

    source = local_path(source, "IN")
    target = check_target(target, option="OUT.safetensors")
    data = convert(source, sha256.lower() if sha256 else INCEPTION_SHA256)
    write_output(target, data, option="OUT.safetensors")
    out.print(f"{target}: SHA-256 {hashlib.sha256(data).hexdigest()}", soft_wrap=True)


@db.command()
def upgrade(storage: Storage = STORAGE) -> None:
    """Upgrade the schema of an older database. Stop its workers first.

    Example: tuner db upgrade --storage postgresql://owner@db/tuner
    """
    before, after = database.upgrade(storage)
    out.print(f"{Address(storage).place}: schema {before} -> {after}", soft_wrap=True)
