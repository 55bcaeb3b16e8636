"""The services of docker-compose.yml as plain processes on loopback, without a Docker engine.

Commands, health checks and settings come from the file, the passwords from ``deploy/secrets.sh``;
the study is tiny. ``Stack.localize`` changes only:

- hosts and ports: ``db``, ``dashboard``, 8080 and 9100 become 127.0.0.1 with free ports, and
  0.0.0.0 becomes 127.0.0.1; PGPORT passes the port to pg_isready;
- folders: ``/run/secrets``, ``/artifacts``, ``/data``, ``/tmp``, ``/deploy/proxy`` and the folder
  of study files become temporary folders.

initdb with the file's settings replaces the entry point of the postgres image; ``tuner`` comes from
this environment. Two services are not run: the GPU worker, which differs from the other worker only
in image and device, and Grafana (test_monitoring.py checks what Prometheus and Grafana read).
"""

import os
import pwd
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psycopg
import pytest
from compose_file import ROOT, SECRET_FILES, Yaml, compose, make_secrets
from postgres import BINARIES, free_port
from processes import STUDY

FOLDERS = ("/run/secrets", "/artifacts", "/data", "/tmp", "/deploy/proxy")
# One batch size and no classifier keep compilation short; nine epochs leave time to stop midway.
# TUNER_DATA names the images.
TINY = STUDY.format(digits="/nowhere").replace("epochs = 3", "epochs = 9")
TINY = TINY.replace("[32, 64]", "[64]").replace("samples", 'features = "random"\nsamples')


@pytest.fixture(scope="module")
def checkout() -> Iterator[Path]:
    """A copy of deploy/ with passwords. Unprivileged users can read it, unlike pytest's temporary
    folders."""
    with tempfile.TemporaryDirectory(prefix="tuner-compose-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        ignored = shutil.ignore_patterns(*SECRET_FILES)
        shutil.copytree(ROOT / "deploy", folder / "deploy", ignore=ignored)
        make_secrets(folder)
        yield folder


def test_secrets_are_made_once_and_readable_by_their_owner_only(checkout: Path) -> None:
    folder = checkout / "deploy/secrets"
    password = (folder / "db_password").read_text()
    login = (folder / "dashboard_login").read_text()
    grafana_password = (folder / "grafana_password").read_text()
    assert re.fullmatch(r"[A-Za-z0-9]{24}\n", password)
    assert re.fullmatch(r"tuner:[A-Za-z0-9]{24}\n", login)
    assert re.fullmatch(r"[A-Za-z0-9]{24}\n", grafana_password)
    assert password.strip() not in login
    assert grafana_password not in (password, login.removeprefix("tuner:"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "deploy/secrets/dashboard_login" in make_secrets(checkout)
    assert (folder / "db_password").read_text() == password
    assert (checkout / ".env").read_text() == "TUNER_SECRETS=./deploy/secrets\n"


class Stack:
    """The services as plain processes."""

    def __init__(self, folder: Path, environment: dict[str, str], data: Path) -> None:
        self.folder, self.environment = folder, environment
        self.services: Yaml = compose(STUDY="tiny")["services"]
        self.ports = {name: free_port() for name in ("db", "dashboard", "proxy")}
        self.folders = {path: folder / path.strip("/") for path in FOLDERS}
        self.folders |= {"/run/secrets": folder / "secrets", "/data": data}
        self.running: list[subprocess.Popen[str]] = []
        for name in ("artifacts", "tmp", "studies", "home"):
            (folder / name).mkdir()
        # Compose mounts only the files, so the folder's mode does not apply in containers.
        shutil.copytree(folder / "deploy/secrets", folder / "secrets")
        (folder / "secrets").chmod(0o755)
        (folder / "studies/tiny.toml").write_text(TINY)

    def localize(self, text: str, service: str) -> str:
        """Replace hosts, ports and folders of containers by those of this machine."""
        port = self.ports.get(service, 0)
        changes = {
            r"@db/": f"@127.0.0.1:{self.ports['db']}/",
            r"dashboard:8080\b": f"127.0.0.1:{self.ports['dashboard']}",
            r"\b8080\b": str(port),
            r"\b9100\b": str(free_port()),
            r"\b0\.0\.0\.0\b": "127.0.0.1",
        }
        changes |= {rf"(?<![\w.]){path}\b": str(here) for path, here in self.folders.items()}
        return re.sub(
            "|".join(f"({pattern})" for pattern in changes),
            lambda found: list(changes.values())[(found.lastindex or 0) - 1],
            text,
        )

    def settings(self, service: str) -> dict[str, str]:
        """The environment of a service's container."""
        inside = {k: v for k, v in self.environment.items() if not k.startswith(("PG", "PYTHON"))}
        path = [str(Path(sys.executable).parent), str(BINARIES), inside["PATH"]]
        inside |= {"PATH": os.pathsep.join(path), "HOME": str(self.folder / "home")}
        inside["PGPORT"] = str(self.ports["db"])
        own = self.services[service].get("environment", {})
        return inside | {key: self.localize(value, service) for key, value in own.items()}

    def command(self, service: str) -> list[str]:
        definition = self.services[service]
        words = definition.get("entrypoint", ["tuner"]) + definition.get("command", [])
        return [self.localize(word, service) for word in words]

    def start(
        self, service: str, command: list[str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        log = self.folder / f"{service}-{len(self.running)}.log"
        log.touch()
        log.chmod(0o666)  # nginx reopens it as its own user
        with log.open("a") as out:
            process = subprocess.Popen(
                command or self.command(service),
                cwd=self.folder,
                env=self.settings(service),
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
                **options,
            )
        self.running.append(process)
        return process

    def log(self, process: subprocess.Popen[str]) -> str:
        return next(self.folder.glob(f"*-{self.running.index(process)}.log")).read_text()

    def finish(self, process: subprocess.Popen[str], timeout: float = 120) -> int:
        """Wait for the exit code; on a timeout, fail with the log."""
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            pytest.fail(self.log(process))

    def healthy(self, service: str) -> bool:
        how, *words = self.services[service]["healthcheck"]["test"]
        assert how == "CMD"
        checked = subprocess.run(
            [self.localize(word, service) for word in words],
            env=self.settings(service),
            capture_output=True,
            timeout=30,
            check=False,
        )
        return checked.returncode == 0

    def secret(self, name: str) -> str:
        return (self.folders["/run/secrets"] / name).read_text().strip()

    def stop(self) -> None:
        for process in reversed(self.running):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def unprivileged(folder: Path) -> dict[str, Any]:
    """Options to run a process as an unprivileged user that owns ``folder``, as the images of
    postgres and nginx do. Postgres refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str], stack: Stack) -> None:
    """Wait for a condition; fail if the process exits first, or after two minutes."""
    for _ in range(1200):
        if condition():
            return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    pytest.fail(stack.log(process))


@pytest.fixture(scope="module")
def stack(checkout: Path, environment: dict[str, str], digits: Path) -> Iterator[Stack]:
    """A stack with a running database, set up as the postgres image does."""
    stack = Stack(checkout, environment, digits)
    try:
        start_database(stack)
        yield stack
    finally:
        stack.stop()


def start_database(stack: Stack) -> None:
    settings, folder = stack.settings("db"), stack.folder / "postgres"
    folder.mkdir()
    user = unprivileged(folder)
    password = settings["POSTGRES_PASSWORD_FILE"]
    how = [settings["POSTGRES_INITDB_ARGS"], f"--username={settings['POSTGRES_USER']}"]
    made = stack.start("db", ["initdb", "-D", str(folder), f"--pwfile={password}", *how], **user)
    assert stack.finish(made) == 0, stack.log(made)
    assert not stack.healthy("db")
    server = stack.start("db", ["postgres", "-D", str(folder), "-k", str(folder)], **user)
    wait_until(lambda: stack.healthy("db"), server, stack)
    with database(stack, stack.secret("db_password"), "postgres") as connection:
        connection.execute(f"create database {settings['POSTGRES_DB']}".encode())


def database(stack: Stack, password: str | None, name: str = "tuner") -> psycopg.Connection:
    return psycopg.connect(
        host="127.0.0.1",
        port=stack.ports["db"],
        user="tuner",
        password=password,
        dbname=name,
        autocommit=True,
    )


def test_the_database_is_healthy_and_requires_its_password(stack: Stack) -> None:
    assert stack.healthy("db")
    for wrong in (None, "", "tuner", "postgres"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            database(stack, wrong)


def create(stack: Stack) -> None:
    process = stack.start("create")
    assert stack.finish(process) == 0, stack.log(process)


@pytest.fixture(scope="module")
def created(stack: Stack) -> None:
    create(stack)


def trials(stack: Stack, *states: str) -> int:
    return count(stack, b"select count(*) from trials where state::text = any(%s)", list(states))


def epochs(stack: Stack) -> int:
    return count(stack, b"select count(*) from trial_intermediate_values")


def count(stack: Stack, query: bytes, *values: object) -> int:
    with database(stack, stack.secret("db_password")) as connection:
        row = connection.execute(query, values).fetchone()
    return int(row[0]) if row else 0


def page(url: str) -> bytes:
    with urlopen(url, timeout=30) as response:
        return bytes(response.read())


@pytest.mark.usefixtures("created")
def test_workers_run_the_study_and_stop_on_sigterm(stack: Stack) -> None:
    create(stack)  # again, as every 'docker compose up' does
    stopped = stack.start("worker")
    wait_until(lambda: epochs(stack) > 0, stopped, stack)
    [url] = re.findall(r"metrics: (http://127\.0\.0\.1:\d+/metrics)", stack.log(stopped))
    # A page whose study was not read within a second lacks these lines.
    wait_until(lambda: b'trials_wanted{study="tiny"} 4.0' in page(url), stopped, stack)
    stopped.terminate()
    grace = int(stack.services["worker"]["stop_grace_period"].removesuffix("s"))
    assert stack.finish(stopped, timeout=grace) == 0, stack.log(stopped)
    assert epochs(stack) < 9
    for worker in [stack.start("worker") for _ in range(2)]:
        assert stack.finish(worker) == 0, stack.log(worker)
    # Exactly four: the released trial was resumed, not replaced.
    assert trials(stack, "COMPLETE", "PRUNED") == 4
    assert trials(stack, "RUNNING", "WAITING", "FAIL") == 0
    assert any(stack.folders["/artifacts"].rglob("*.safetensors"))


@pytest.fixture(scope="module")
def dashboard(stack: Stack, created: None) -> subprocess.Popen[str]:
    process = stack.start("dashboard")
    wait_until(lambda: stack.healthy("dashboard"), process, stack)
    return process


def test_the_dashboard_hides_the_password(stack: Stack, dashboard: subprocess.Popen[str]) -> None:
    assert "warning" not in stack.log(dashboard)
    listed = subprocess.run(
        ["ps", "-Aww", "-o", "args"], capture_output=True, text=True, check=True
    )
    assert f"dashboard --host 127.0.0.1 --port {stack.ports['dashboard']}" in listed.stdout
    assert stack.secret("db_password") not in listed.stdout
    assert stack.secret("db_password") not in stack.log(dashboard)


Request = Callable[..., tuple[int, bytes]]


@pytest.fixture(scope="module")
def proxy(stack: Stack, dashboard: subprocess.Popen[str]) -> Request:
    """Start nginx with its real configuration in front of the real dashboard; sends requests."""
    del dashboard
    require_nginx()
    for file in (stack.folder / "deploy/proxy").iterdir():
        file.write_text(stack.localize(file.read_text(), "proxy"))
    process = stack.start("proxy", **unprivileged(stack.folders["/tmp"]))

    def request(
        path: str, method: str = "GET", login: str = "", body: str = "", **more: str
    ) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"}
        headers |= {name.replace("_", "-"): value for name, value in more.items()}
        if login:
            headers["Authorization"] = "Basic " + b64encode(login.encode()).decode()
        connection = HTTPConnection("127.0.0.1", stack.ports["proxy"], timeout=20)
        try:
            connection.request(method, path, body or None, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", stack.ports["proxy"])) == 0

    wait_until(listens, process, stack)
    return request


def require_nginx() -> None:
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed; on Debian: apt-get install nginx")


def test_the_proxy_requires_a_login(stack: Stack, proxy: Request) -> None:
    login = stack.secret("dashboard_login")
    name, password = login.split(":")
    for path in ("/", "/dashboard", "/api/studies", "/nothing"):
        assert proxy(path)[0] == 401
    for wrong in (
        f"{name}:",
        f"{name}:{password[:-1]}",
        f"{name}:{password}x",
        f"x:{password}",
        ":",
    ):
        assert proxy("/dashboard", login=wrong)[0] == 401, wrong
    status, page = proxy("/dashboard", login=login)
    assert status == 200
    assert b"Optuna Dashboard" in page
    status, studies = proxy("/api/studies", login=login)
    assert status == 200
    assert b'"tiny"' in studies


def test_writing_requires_a_login(stack: Stack, proxy: Request) -> None:
    login = stack.secret("dashboard_login")

    def new(name: str, **more: str) -> int:
        body = f'{{"study_name": "{name}", "directions": ["minimize"]}}'
        return proxy("/api/studies", "POST", body=body, **more)[0]

    assert new("anonymous") == 401
    assert new("guest", login="tuner:guess") == 401
    assert new("elsewhere", login=login, Sec_Fetch_Site="cross-site") == 403
    assert new("neighbour", login=login, Sec_Fetch_Site="same-site") == 403
    assert new("friend", login=login, Sec_Fetch_Site="same-origin") == 201
    assert new("script", login=login) == 201
    with database(stack, stack.secret("db_password")) as connection:
        names = connection.execute("select study_name from studies").fetchall()
    assert sorted(names) == [("friend",), ("script",), ("tiny",)]
    assert proxy("/api/studies/1", "DELETE")[0] == 401
