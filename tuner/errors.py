"""The errors a person can cause or meet. Each is one line (or one a problem), with an exit code."""


class TunerError(Exception):
    """Something failed while running."""

    exit_code = 1


class InputError(TunerError):
    """The input was wrong: a study file, an option, missing data."""

    exit_code = 2


class InterruptError(TunerError):
    """A person asked to leave at once."""

    def __init__(self) -> None:
        super().__init__("left at once; the same command goes on with the study")


class StorageError(TunerError):
    """The database or the artifact store can't be reached; ``transient`` where that may pass."""

    exit_code = 3

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class LeaseLostError(TunerError):
    """A trial is not, or no longer, this worker's to write to."""
