"""docker-compose.yml in a real Docker engine: build, study, login, kills, restarts, scaling.

Skipped where no engine answers; ``tests/engine/start.sh`` starts one. Changed for the test, by an
override file: the image's name and, because builds may need them, the host's network and names. The
tests of this module are one story and run in order.
"""

import json
import os
import secrets
import shutil
import subprocess
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from compose_file import ROOT, make_secrets, steps
from postgres import free_port
from processes import unpruned_study
from ruamel.yaml import YAML

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

COPIED = (
    *("Dockerfile", ".dockerignore", "docker-compose.yml", "pyproject.toml", "requirements.lock"),
    *("README.md", "tuner", "studies", "deploy"),
)
TRIALS, EPOCHS = 2, 2  # of the study that ends; the other one does not end by itself
SERVICES = ("create", "worker", "dashboard")  # that are built


def docker(*words: str, timeout: float = 120, check: bool = True) -> str:
    done = subprocess.run(
        ["docker", *words], capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0 or not check, f"docker {words}:\n{done.stdout}{done.stderr}"
    return done.stdout.strip() if done.returncode == 0 else ""


def why_not() -> str | None:
    """Why the containers can't be run; None if they can."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    if not docker("info", "--format", "{{.ServerVersion}}", check=False):
        return "no Docker engine answers; on Debian: tests/engine/start.sh"
    if not docker("compose", "version", check=False):
        return "Docker Compose is not installed"
    images = {step.split()[0] for step in steps("FROM")} | {"postgres:17-alpine", "nginx:1-alpine"}
    for image in sorted(images):
        if not docker("images", "--quiet", image) and not docker("pull", image, check=False):
            return f"{image} is neither here nor can it be pulled; on Debian: tests/engine/start.sh"
    return None


def host_names() -> list[str]:
    """The names in /etc/hosts, except this machine's, as Compose's ``extra_hosts``."""
    lines = [line.split() for line in Path("/etc/hosts").read_text().splitlines()]
    names = [line for line in lines if len(line) > 1 and not line[0].startswith(("#", "127.", ":"))]
    return [f"{name}:{line[0]}" for line in names for name in line[1:]]


class Project:
    """A Compose project in a copy of the checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.name = f"tuner-test-{secrets.token_hex(4)}"
        own = {
            "STUDY": "short",
            "STUDY_DATA": str(folder / "digits"),
            "DASHBOARD_PORT": str(self.port),
        }
        self.environment = os.environ | own | {"COMPOSE_PROJECT_NAME": self.name}

    def compose(self, *words: str, timeout: float = 300) -> str:
        done = subprocess.run(
            ["docker", "compose", *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"{words}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def containers(self, service: str) -> list[dict[str, Any]]:
        """Details of a service's containers, ended ones included, by number."""
        found = self.compose("ps", "--all", "--quiet", service).split()
        details = json.loads(docker("inspect", *found)) if found else []
        return sorted(details, key=lambda container: str(container["Name"]))

    def workers(self) -> list[dict[str, Any]]:
        """Workers that run."""
        return [found for found in self.containers("worker") if found["State"]["Running"]]

    def healthy(self, service: str) -> bool:
        found = self.containers(service)
        return {each["State"].get("Health", {}).get("Status") for each in found} == {"healthy"}

    def logs(self) -> str:
        return self.compose("logs", "--no-color", "--tail", "60")

    def query(self, sql: str) -> int:
        """A number from the study's database."""
        password = f"PGPASSWORD={self.secret('db_password')}"
        words = ["psql", "-h", "127.0.0.1", "-U", "tuner", "-d", "tuner", "-Atc", sql]
        return int(self.compose("exec", "-T", "-e", password, "db", *words) or 0)

    def epochs(self) -> int:
        return self.query("select count(*) from tuner_epochs")

    def secret(self, name: str) -> str:
        return (self.folder / "deploy/secrets" / name).read_text().strip()

    def status_of(self, path: str, login: str = "") -> int:
        """The status of the answer to a request to the published port."""
        headers = {"Authorization": "Basic " + b64encode(login.encode()).decode()} if login else {}
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path, headers=headers)
            return connection.getresponse().status
        finally:
            connection.close()

    def wait_until(self, condition: Callable[[], bool], what: str, within: float = 600) -> None:
        end = time.monotonic() + within
        while not condition():
            assert time.monotonic() < end, f"{what} did not happen in {within:g} s\n{self.logs()}"
            time.sleep(1)

    def wait_for_epochs(self, more: int = 3) -> None:
        before = self.epochs()
        self.wait_until(lambda: self.epochs() >= before + more, "training goes on")


@pytest.fixture(scope="module")
def project(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The services, built and started with two workers, from a checkout under umask 077."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("checkout")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*_password", "dashboard_login")
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    nowhere = Path("/nowhere")  # TUNER_DATA says where the images are
    (folder / "studies/short.toml").write_text(unpruned_study(nowhere, TRIALS, EPOCHS))
    (folder / "studies/long.toml").write_text(unpruned_study(nowhere, 4, lease=15, takeovers=9))
    shutil.copytree(digits, folder / "digits")
    subprocess.run(["chmod", "-R", "go-rwx", str(folder)], check=True)
    subprocess.run(["chmod", "-R", "a+rX", str(folder / "digits")], check=True)
    make_secrets(folder)
    build = {"network": "host", "extra_hosts": host_names()}
    override = {name: {"image": "tuner:acceptance", "build": build} for name in SERVICES}
    YAML().dump({"services": override}, folder / "docker-compose.override.yml")
    project = Project(folder)
    try:
        project.compose("build", timeout=1500)
        project.compose("up", "--detach", "--scale", "worker=2")
        yield project
    finally:
        project.compose("down", "--volumes", "--timeout", "5")


def test_a_study_runs_to_its_end(project: Project) -> None:
    project.wait_until(lambda: project.epochs() > 0, "the first epoch")
    project.wait_until(lambda: not project.workers(), "the workers exit")
    codes = [found["State"]["ExitCode"] for found in project.containers("worker")]
    assert codes == [0, 0], project.logs()
    assert project.query("select count(*) from trials where state::text = 'COMPLETE'") == TRIALS
    assert project.query("select count(*) from trials") == TRIALS
    assert project.epochs() == TRIALS * EPOCHS


def test_another_study_takes_over_the_services_which_are_healthy(project: Project) -> None:
    project.environment["STUDY"] = "long"
    project.compose("up", "--detach", "--scale", "worker=2")
    project.wait_for_epochs()
    assert len(project.workers()) == 2
    for service in ("db", "worker", "dashboard", "proxy"):
        project.wait_until(partial(project.healthy, service), f"{service} becomes healthy")


def test_containers_run_as_a_user_on_a_read_only_image(project: Project) -> None:
    for service in ("worker", "dashboard", "proxy"):
        identity = project.compose("exec", "-T", service, "id", "-u").strip()
        assert identity != "0", service
        [container, *_] = project.containers(service)
        assert container["HostConfig"]["ReadonlyRootfs"] is True, service
        tried = subprocess.run(
            ["docker", "exec", container["Id"], "touch", "/tuner-was-here", "/usr/x"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Read-only file system" in tried.stderr, service


def test_the_dashboard_asks_for_a_login(project: Project) -> None:
    assert project.status_of("/dashboard") == 401
    assert project.status_of("/api/studies", "tuner:guess") == 401
    assert project.status_of("/dashboard", project.secret("dashboard_login")) == 200
    assert project.status_of("/api/studies", project.secret("dashboard_login")) == 200
    published = project.containers("dashboard")[0]["NetworkSettings"]["Ports"]
    assert not any(published.values())


def test_a_killed_worker_is_replaced_and_its_trial_resumed(project: Project) -> None:
    worker = project.workers()[0]
    kill = "import os, pathlib\nfor p in pathlib.Path('/proc').glob('[0-9]*'):\n"
    kill += " int(p.name) > 1 and int(p.name) != os.getpid() and os.kill(int(p.name), 9)"
    docker("exec", worker["Id"], "python", "-c", kill, check=False)

    def restarted() -> bool:
        found = json.loads(docker("inspect", worker["Id"]))[0]
        return bool(found["RestartCount"] == 1 and found["State"]["Running"])

    project.wait_until(restarted, "the container starts again")
    project.wait_until(
        lambda: project.query("select coalesce(sum(takeovers), 0) from tuner_leases") == 1,
        "the trial is taken over",
    )
    project.wait_for_epochs()


def test_workers_survive_a_restart_of_the_database(project: Project) -> None:
    before = {found["Id"]: found["State"]["StartedAt"] for found in project.workers()}
    project.compose("restart", "db")
    project.wait_until(partial(project.healthy, "db"), "the database is back")
    project.wait_for_epochs()
    after = {found["Id"]: found["State"]["StartedAt"] for found in project.workers()}
    assert after == before


def test_more_workers_join(project: Project) -> None:
    project.compose("up", "--detach", "--no-recreate", "--scale", "worker=3")
    held = "select count(*) from tuner_leases where status = 'held'"
    project.wait_until(lambda: project.query(held) == 3, "the third worker begins a trial")
    assert len(project.workers()) == 3


def test_down_stops_gracefully_and_up_goes_on(project: Project) -> None:
    epochs = project.epochs()
    project.compose("stop")  # as down does first
    codes = [found["State"]["ExitCode"] for found in project.containers("worker")]
    assert codes == [0, 0, 0], project.logs()
    project.compose("down")
    project.compose("up", "--detach", "--scale", "worker=3")  # once the database is healthy
    project.wait_until(lambda: project.epochs() > epochs + 6, "training goes on")
    resumed = "select count(*) from tuner_leases where status = 'held'"
    assert project.query(resumed) == 3
    begun = "select count(*) from tuner_leases join studies using (study_id)"
    assert project.query(f"{begun} where study_name = 'long'") == 3  # the same trials, no other
    assert project.status_of("/dashboard", project.secret("dashboard_login")) == 200
