"""Where studies and files are kept unless told otherwise."""

import os

STORAGE_VARIABLE, ARTIFACTS_VARIABLE = "TUNER_STORAGE", "TUNER_ARTIFACTS"


def default_storage() -> str:
    """A SQLAlchemy URL."""
    return os.environ.get(STORAGE_VARIABLE, "sqlite:///tuner-data/studies.db")


def default_artifacts() -> str:
    """A folder."""
    return os.environ.get(ARTIFACTS_VARIABLE, "tuner-data/artifacts")
