"""``tuner export-model``: write a generator as a folder that works without tuner."""

from pathlib import Path
from typing import Annotated

import typer

from tuner.cli.app import Task, command, out
from tuner.cli.best import warn_of_changed_code
from tuner.cli.options import Allow, Artifacts, Storage, StudyName, open_study, option
from tuner.cli.writing import check_folder, write_folder
from tuner.environment import STORAGE, MachineOptions
from tuner.errors import InputError
from tuner.views.model_readme import FORMATS, model_readme

README, SAMPLES = "README.md", "samples.png"
SHOWN = 64  # samples


@command(Task.RESULTS, "export-model", uses_jax=True)
def export_model(
    name: StudyName,
    to: Annotated[Path, option("FOLDER", "Folder to write.", "--to")],
    storage: Storage = STORAGE,
    artifacts: Artifacts = None,
    trial: Annotated[
        int | None, option("N", "Number of the trial. Default: the winner.", min=0)
    ] = None,
    formats: Annotated[
        list[str] | None,
        option(
            f"[{'|'.join(FORMATS)}]",
            "flax: weights, network source and a script; jax-export: StableHLO; onnx: needs "
            "the extra `onnx`. Can be repeated. Default: flax.",
            "--format",
            autocompletion=lambda: list(FORMATS),
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    allow: Allow = None,
) -> None:
    """Export a generator for use without tuner.

    Each format is checked against the images of ``tuner sample``. See docs/using-the-winner.md.

    Example: tuner export-model quickstart --to generator
    """
    from tuner.files.study_files import open_files
    from tuner.run import model_export
    from tuner.run.stored_generators import open_generator
    from tuner.views.images import grid_png

    wanted = formats or ["flax"]
    for one in wanted:
        if one not in FORMATS:
            raise InputError(f"--format: found {one!r}, expected one of: {', '.join(FORMATS)}")
    known = (README, SAMPLES, *model_export.NAMES) if force else ()
    to = check_folder(to, force=known)
    store = open_study(storage, name)
    chosen = store.best_kept() if trial is None else store.trial(trial)
    options = MachineOptions(allow=tuple(allow or ()))
    warn_of_changed_code(store, options)
    generator = open_generator(store, open_files(store, artifacts), chosen, options)
    about = {"study": name, "trial": chosen.number}
    files = model_export.export_model(generator, wanted, about)
    files[README] = model_readme(
        store.spec, chosen, store.confirmed(), generator.program, wanted, model_export.versions()
    ).encode()
    files[SAMPLES] = grid_png(generator(SHOWN))
    write_folder(to, files)
    out.print(f"Generator of trial {chosen.number}: {to}", soft_wrap=True)
