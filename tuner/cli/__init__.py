"""The command line: parse, call, print."""

from tuner.cli import looking, results, running, steering  # noqa: F401 - each adds its commands
from tuner.cli.main import app, main

__all__ = ["app", "main"]
