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
    """The database can't be reached."""

    exit_code = 3
