"""``Workers``: the workers to start, and the templates that describe them to a scheduler."""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from tuner.environment import MachineOptions
from tuner.errors import InputError
from tuner.study.connections import Address
from tuner.study.urls import command_url
from tuner.worker_command import WorkerCommand

STOPPED = 75  # exit code of a worker that a signal stopped before the study ended: EX_TEMPFAIL
KILLED = 128 + 15  # exit code after SIGTERM before the first trial
RETRIES = 6  # restarts of a worker that fails
_BUCKET = re.compile(r"(?i:s3|gs)://[\w.-]+(/[\w./-]*)?")
LONGEST_LABEL = 40  # characters; a Job's name and a pod's number must fit into 63

_TEMPLATES = Environment(
    loader=PackageLoader("tuner.launch"),
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=StrictUndefined,
)
_TEMPLATES.filters["yaml"] = json.dumps  # JSON is YAML


@dataclass(frozen=True)
class Workers:
    """Workers of one study."""

    study: str
    count: int
    storage: str  # URL of a Postgres database, without a password
    artifacts: str | None  # URL of the artifact store; None: the study's
    grace: float  # seconds to finish the epoch after SIGTERM
    allow: tuple[str, ...] = ()  # packages of custom networks and metrics

    @property
    def label(self) -> str:
        """The study's name in lower-case letters, digits and hyphens, as schedulers require."""
        kept = re.sub(r"[^a-z0-9]+", "-", self.study.lower())[:LONGEST_LABEL].strip("-")
        if kept == self.study.replace("_", "-"):
            return kept
        return f"{kept}-{hashlib.sha256(self.study.encode()).hexdigest()[:8]}".lstrip("-")

    @property
    def command(self) -> list[str]:
        """Arguments of ``tuner`` for one worker."""
        options = MachineOptions(allow=self.allow)
        return WorkerCommand(
            self.study, options=options, grace=self.grace, signal_exit_code=STOPPED
        ).words

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of a worker, without secrets."""
        found = {"TUNER_STORAGE": self.storage}
        return found | ({} if self.artifacts is None else {"TUNER_ARTIFACTS": self.artifacts})


def remote_storage(url: str) -> str:
    """The URL without its password; InputError unless other machines can reach the database."""
    address = Address(url)
    if address.is_sqlite:
        raise InputError(
            "storage: a SQLite file can't be shared between machines; "
            "give --storage postgresql://USER@HOST/DATABASE"
        )
    return command_url(address.url)


def remote_artifacts(url: str | None) -> str | None:
    """The URL of a bucket; InputError for a folder, which other machines may not have.

    The message does not show the URL, because it may contain a password.
    """
    if url is None or _BUCKET.fullmatch(url):
        return url
    raise InputError(
        "artifacts: workers on other machines need s3://BUCKET/PREFIX or gs://BUCKET/PREFIX, "
        "or a mounted folder"
    )


def render(template: str, **values: Any) -> str:
    """The named template, filled with the values."""
    retried = {"stopped": STOPPED, "killed": KILLED, "retries": RETRIES}
    return _TEMPLATES.get_template(template).render(retried | values)
