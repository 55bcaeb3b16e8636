"""Errors shown to users: one line per problem, and an exit code."""

from collections.abc import Callable

HUNG_EXIT_CODE = 4  # of a worker that ends because an epoch hangs


class TunerError(Exception):
    """Something failed while running."""

    exit_code = 1


class HungError(TunerError):
    """An epoch takes so long that it must have hung."""

    exit_code = HUNG_EXIT_CODE


class InputError(TunerError):
    """Invalid input, such as a wrong study file or option, or missing data."""

    exit_code = 2


class StorageError(TunerError):
    """The database or the artifact store can't be used.

    ``transient``: a retry may help. ``busy``: a server is there, but is still starting or has no
    free connection.
    """

    exit_code = 3

    def __init__(self, message: str, *, transient: bool = False, busy: bool = False) -> None:
        super().__init__(message)
        self.transient, self.busy = transient, busy


class LeaseLostError(TunerError):
    """The worker does not hold, or no longer holds, the lease of a trial."""


def one_line(error: BaseException, mask: Callable[[str], str]) -> str:
    """An unexpected error as one line of at most 2,000 characters, to be stored and shown.

    ``mask`` removes passwords before the text is cut: it would not recognise half a password.
    """
    text = f"{type(error).__name__}: {' '.join(mask(str(error)).split())}"[:2000]
    return text.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
