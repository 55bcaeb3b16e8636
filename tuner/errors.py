"""The errors a person can cause or meet. Each is one line (or one a problem), with an exit code."""


class TunerError(Exception):
    """Something failed while running."""

    exit_code = 1


class InputError(TunerError):
    """The input was wrong: a study file, an option, missing data."""

    exit_code = 2


class StorageError(TunerError):
    """The database or the artifact store can't be reached."""

    exit_code = 3
