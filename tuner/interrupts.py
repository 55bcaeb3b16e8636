"""Handle Ctrl-C while the command line is being imported, which takes a second or more."""

# The module signal imports others first, and Ctrl-C would not be handled in that time. typeshed has
# no stubs for _signal, the part of it that is written in C.
import _signal  # type: ignore[import-not-found]
import os
import sys


def is_program() -> bool:
    """Whether this process is the ``tuner`` command, not one that imports tuner as a library."""
    name = os.path.basename("".join(sys.argv[:1]))
    return name == "tuner" or (name == "-m" and "tuner.cli" in sys.orig_argv)


def exit_on_ctrl_c() -> None:
    """Make Ctrl-C end the process with one line, until ``tuner.run.signals`` takes over."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _exit)


def _exit(number: int, frame: object) -> None:
    os.write(2, b"\ntuner: interrupted\n")
    os._exit(128 + number)
