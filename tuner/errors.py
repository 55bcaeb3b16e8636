"""Errors that a user can cause or meet: one line a problem, and an exit code."""

from collections.abc import Callable


class TunerError(Exception):
    """Something failed while running."""

    exit_code = 1


class InputError(TunerError):
    """Wrong input: a study file, an option, missing data."""

    exit_code = 2


class StorageError(TunerError):
    """The database or the artifact store can't be used.

    ``transient``: trying again may help. ``busy``: a server exists, and will answer once it has
    started or has a free connection.
    """

    exit_code = 3

    def __init__(self, message: str, *, transient: bool = False, busy: bool = False) -> None:
        super().__init__(message)
        self.transient, self.busy = transient, busy


class LeaseLostError(TunerError):
    """The worker does not hold, or no longer holds, the lease of a trial."""


def one_line(error: BaseException, masked: Callable[[str], str]) -> str:
    """An unexpected error as one line of at most 2,000 characters, to be stored and shown.

    ``masked`` removes passwords before the text is cut: half a password would go unnoticed.
    """
    text = f"{type(error).__name__}: {' '.join(masked(str(error)).split())}"[:2000]
    return text.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
