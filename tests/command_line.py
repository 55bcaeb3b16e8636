"""``tuner`` commands in the process of the test."""

import sys
from unittest import mock

import pytest

from tuner.cli import main


def call(*words: str) -> int:
    """Run a command; its exit code."""
    with mock.patch.object(sys, "argv", ["tuner", *words]), pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)
