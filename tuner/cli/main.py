"""The entry point: signals, refused URLs, failures of output streams, one-line errors."""

import errno
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, TextIO, cast

import typer

from tuner import hints
from tuner.cli.app import USES_JAX, app, err
from tuner.environment import METRICS_HOST_VARIABLE, METRICS_PORT_VARIABLE, variable
from tuner.errors import InputError, TunerError
from tuner.jax_variables import check_start, drop_settings
from tuner.paths import REFUSAL, looks_like_url
from tuner.run.signals import exit_on_signals, exit_process

UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # typer does not export it
TAKE_URLS = ("--storage", "--artifacts")
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")  # of a container image, whose @ follows no password
RUN_ON = {"sweep", "worker", "dashboard"}  # their work does not depend on a reader of stdout


def _arguments(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each word of a command line with the option that it names or belongs to."""
    for before, word in pairwise(["", *words]):
        name = word.partition("=")[0]
        yield word, before if before in (*TAKE_URLS, "--image", "--reason") else name


def refuse_urls(words: Sequence[str]) -> None:
    """Raise InputError for a URL in the wrong place: other errors would print its password."""
    for position, (word, option) in enumerate(_arguments(words), 1):
        word = _DIGEST.sub("", word) if option == "--image" else word
        if option not in TAKE_URLS and looks_like_url(word, prose=option == "--reason"):
            raise InputError(
                f"argument {position}: {REFUSAL}; only {' and '.join(TAKE_URLS)} take one"
            )
    for name in (METRICS_HOST_VARIABLE, METRICS_PORT_VARIABLE):
        variable(name)


def resume_command(words: Sequence[str], storage: str, artifacts: str) -> str:
    """The same command line with password-free URLs, as a hint on how to resume."""
    safe = dict(zip(TAKE_URLS, (storage, artifacts), strict=True))
    shown = []
    for word, option in _arguments(words):
        if option in safe and word.startswith(f"{option}="):
            shown.append(f"{option}={safe[option]}")
        else:
            shown.append(safe[option] if option in safe and word != option else word)
    return hints.command(*shown)


class _Sink(io.FileIO):
    """A file descriptor. Data that can't be written is dropped; ``failure`` says why."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        if self.failure is None:
            try:
                return os.write(self.fileno(), data)
            except OSError as error:
                self.failure = error
        return len(data)


class Output(io.TextIOWrapper):
    """Standard output or error whose failure does not stop the program.

    The reader may close the pipe or the terminal, or the disk may be full. Characters that the
    encoding lacks are written as escapes.
    """

    def __init__(self, descriptor: int, encoding: str) -> None:
        self._sink = _Sink(descriptor, "w", closefd=False)
        super().__init__(
            io.BufferedWriter(self._sink),
            encoding,
            errors="backslashreplace",
            line_buffering=self._sink.isatty() or descriptor == 2,
        )

    @property
    def failure(self) -> OSError | None:
        """The error that caused output to be dropped, or None."""
        return self._sink.failure


def replace_standard_streams() -> None:
    """Replace Python's standard output and error with ``Output``."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # occupy closed descriptors, so that no file opened later becomes standard output
    os.close(descriptor)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = cast(TextIO | None, getattr(sys, name))
        # A stream that is not the original one captures output, as pytest's do: leave it.
        if stream is None or stream is getattr(sys, f"__{name}__"):
            encoding = "utf-8" if stream is None else stream.encoding
            setattr(sys, name, Output(descriptor, encoding))
    sys.stdin = sys.stdin or os.fdopen(0)


def main() -> None:
    exit_on_signals()
    replace_standard_streams()
    words = sys.argv[1:]
    try:
        refuse_urls(words)
        drop_settings(os.environ)
        # Workers of a sweep (--events) inherit variables that the sweep has checked.
        if USES_JAX.intersection(words[:1]) and not {"--help", "--events"}.intersection(words):
            check_start()
        code = _run(words)
        sys.stdout.flush()
        failure: OSError | None = getattr(sys.stdout, "failure", None)
        # A reader that closes the pipe has read enough, which is no error.
        if failure and failure.errno != errno.EPIPE and not RUN_ON.intersection(words[:1]):
            raise TunerError(f"standard output can't be written: {failure.strerror}")
    except TunerError as error:
        err.print(f"tuner: {error}", soft_wrap=True)
        code = error.exit_code
    except UnicodeEncodeError:
        err.print("tuner: an argument or a path is not valid UTF-8")
        code = InputError.exit_code
    exit_process(code)


def _run(words: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    try:
        return app(words, prog_name="tuner", standalone_mode=False) or 0
    except typer.Abort:
        err.print("Aborted!")
        return 1
    except UsageError as error:
        usage: Any = error
        if any("@" in word or looks_like_url(word.removeprefix("sqlite:")) for word in words):
            parameter = getattr(usage, "param", None)
            what = parameter.opts[0] if parameter else "the command line"
            raise InputError(
                f"{what} can't be parsed (not shown, as it may contain a password); "
                "--help lists each command's arguments"
            ) from None
        text = io.StringIO()
        usage.show(text)
        err.print(text.getvalue().rstrip(), soft_wrap=True)
        return int(usage.exit_code)
