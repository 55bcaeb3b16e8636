"""The command line: parse, call, print."""

import os
import sys
from importlib import import_module

from tuner.run.signals import exit_on_signals

if os.path.basename("".join(sys.argv[:1])) in ("tuner", "-m"):  # the program, not an import
    exit_on_signals()  # before the imports below, which take seconds where disks are slow

from tuner.cli.app import app
from tuner.cli.main import main

__all__ = ["app", "main"]

# The modules that define commands, in the order of `tuner --help`.
for _module in (
    "run",
    "worker",
    "launch",
    "launch_slurm",
    "launch_kubernetes",
    "launch_skypilot",
    "status",
    "trials",
    "dashboard",
    "best",
    "confirm",
    "export",
    "report",
    "export_model",
    "replay",
    "steer",
    "queue",
    "hold",
    "edit",
    "prepare",
    "study_file",
):
    import_module(f"tuner.cli.{_module}")
