"""``tuner launch``: the group of commands that run workers on clusters."""

import typer

from tuner.cli.app import Task, app

launch = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Run workers on a cluster.\n\nExample: tuner launch slurm quickstart --workers 16",
)
app.add_typer(launch, name="launch", rich_help_panel=Task.RUN)
