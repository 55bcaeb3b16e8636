"""The command line: parse, call, print."""

from tuner.cli import looking, preparing, replaying, results, running, steering
from tuner.cli.main import app, main

__all__ = ["app", "looking", "main", "preparing", "replaying", "results", "running", "steering"]
