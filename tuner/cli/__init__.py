"""The command line: parse, call, print."""

from tuner.cli import (
    drawing,
    looking,
    preparing,
    replaying,
    results,
    running,
    serving,
    showing,
    steering,
)
from tuner.cli.main import app, main

__all__ = [
    "app",
    "drawing",
    "looking",
    "main",
    "preparing",
    "replaying",
    "results",
    "running",
    "serving",
    "showing",
    "steering",
]
