"""Where studies and files are kept unless told otherwise."""

import os

STORAGE_VARIABLE, ARTIFACTS_VARIABLE = "TUNER_STORAGE", "TUNER_ARTIFACTS"


STORAGE, ARTIFACTS = "sqlite:///tuner-data/studies.db", "tuner-data/artifacts"


def default_storage() -> str:
    """A SQLAlchemy URL."""
    return os.environ.get(STORAGE_VARIABLE, STORAGE)


def default_artifacts() -> str:
    """A folder."""
    return os.environ.get(ARTIFACTS_VARIABLE, ARTIFACTS)
