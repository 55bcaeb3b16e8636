"""docker-compose.yml and the Dockerfile, as far as they can be tried without a Docker engine.

Every command, health check and setting is run as a plain process on loopback, for a tiny study,
with the passwords that ``deploy/secrets.sh`` makes. What this changes in them (``Stack.here``), and
nothing else:

- the hosts ``db`` and ``dashboard`` and the ports 8080 and 9100 become 127.0.0.1 and free ports,
  the address 0.0.0.0 becomes 127.0.0.1; pg_isready hears of the port by PGPORT;
- ``/run/secrets``, ``/artifacts``, ``/data``, ``/tmp`` and ``/deploy/proxy`` become temporary
  folders; study files are read from one too.

The images are not needed: what postgres' does before it starts the server is done here with initdb
and the file's settings, and ``tuner`` is this environment's. The GPU's service differs from the
other worker's in its image and its device alone, which can't be tried. Nor can Grafana be;
test_monitoring.py has what Prometheus and it are told.
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
import tomllib
from base64 import b64encode
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psycopg
import pytest
from postgres import BINARIES, free_port
from processes import STUDY
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
SECRETS = {"TUNER_SECRETS": "./deploy/secrets"}
SECRET_FILES = ("db_password", "dashboard_login", "grafana_password")
PLACES = ("/run/secrets", "/artifacts", "/data", "/tmp", "/deploy/proxy")
# Little to compile, one batch size and no classifier; long enough to be stopped midway. The images
# are where TUNER_DATA says.
TINY = STUDY.format(digits="/nowhere").replace("epochs = 3", "epochs = 9")
TINY = TINY.replace("[32, 64]", "[64]").replace("samples", 'features = "random"\nsamples')

Yaml = dict[str, Any]


class MissingError(Exception):
    """A variable that has to be given."""


def compose(**variables: str) -> Yaml:
    """docker-compose.yml with its variables filled in, as compose does it."""
    text = (ROOT / "docker-compose.yml").read_text()
    loaded: Yaml = YAML(typ="safe", pure=True).load(text)
    return dict(filled(loaded, SECRETS | variables))


def filled(node: Any, variables: dict[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: filled(value, variables) for key, value in node.items()}
    if isinstance(node, list):
        return [filled(value, variables) for value in node]
    return interpolated(node, variables) if isinstance(node, str) else node


def interpolated(text: str, variables: dict[str, str]) -> str:
    """``${NAME:-default}`` and ``${NAME:?why}``, the innermost first; the file uses no others."""

    def value(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        if kind == "?" and not variables.get(name):
            raise MissingError(f"{name}: {rest}")
        return variables.get(name) or rest

    while (after := re.sub(r"\$\{(\w+):([-?])([^${}]*)\}", value, text)) != text:
        text = after
    assert "$" not in text, text
    return text


# The file as it is written


def test_follows_the_published_schema(tmp_path: Path) -> None:
    """compose-spec's own, which the package check-jsonschema carries."""
    file = tmp_path / "compose.yml"
    YAML(typ="safe", pure=True).dump(compose(), file)
    words = ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    checked = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_without_passwords_it_says_what_to_do() -> None:
    with pytest.raises(MissingError, match=r"TUNER_SECRETS: run 'sh deploy/secrets\.sh' first"):
        compose(TUNER_SECRETS="")


def ports(**variables: str) -> dict[str, list[str]]:
    """Those that can be reached from outside of the containers' network."""
    services = compose(**variables)["services"]
    return {name: service["ports"] for name, service in services.items() if "ports" in service}


def test_only_the_proxy_has_a_port_and_that_on_loopback() -> None:
    assert ports().pop("proxy") == ["127.0.0.1:8080:8080"]
    chosen = ports(DASHBOARD_ADDRESS="192.0.2.1", DASHBOARD_PORT="443")
    assert chosen.pop("proxy") == ["192.0.2.1:443:8080"]
    for name in chosen:
        assert compose()["services"][name]["profiles"] == ["monitoring"]


def test_who_asks_for_monitoring_alone_reaches_it_and_from_this_machine_alone() -> None:
    watchers = {name: s for name, s in compose()["services"].items() if "monitoring" in str(s)}
    assert set(watchers) == {"prometheus", "grafana"}
    open_ports = ports(DASHBOARD_ADDRESS="192.0.2.1", PROMETHEUS_PORT="1", GRAFANA_PORT="2")
    assert open_ports["prometheus"] == ["127.0.0.1:1:9090"]
    assert open_ports["grafana"] == ["127.0.0.1:2:3000"]
    environment = watchers["grafana"]["environment"]
    assert environment["GF_SECURITY_ADMIN_PASSWORD__FILE"] == "/run/secrets/grafana_password"
    assert not any("ANONYMOUS" in name for name in environment)


def test_no_password_is_written_down() -> None:
    for name, service in compose()["services"].items():
        for key, value in service.get("environment", {}).items():
            assert not re.search(r"//[^/]*:[^/]*@", value), (name, key)
            if re.search("PASSWORD|LOGIN|SECRET|KEY", key):
                assert key.endswith("_FILE"), (name, key)
                assert value.startswith("/run/secrets/"), (name, key)


def test_secrets_volumes_and_services_that_are_named_exist() -> None:
    file = compose()
    secret_files = {f"/run/secrets/{name}": name for name in file["secrets"]}
    for name, service in file["services"].items():
        assert set(service.get("depends_on", {})) <= set(file["services"]), name
        assert set(service.get("secrets", ())) <= set(file["secrets"]), name
        read = set(service.get("environment", {}).values()) & set(secret_files)
        assert {secret_files[path] for path in read} <= set(service.get("secrets", ())), name
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if "/" in source else source in file["volumes"], volume


def test_images_are_pinned_and_no_service_runs_as_root() -> None:
    services = compose()["services"]
    for name, service in services.items():
        if "image" in service:
            assert re.search(r":(\d+(-alpine)?|v?\d+\.\d+\.\d+)$", service["image"]), name
            assert service["user"] != "root", name
        else:
            assert service["build"]["context"] == ".", name
    assert steps("USER")[-1] != "root"
    assert re.fullmatch(r"python:3\.\d+-slim", steps("FROM")[-1])


def test_a_worker_starts_after_create_and_has_time_to_give_its_trial_back() -> None:
    services = compose()["services"]
    assert services["create"]["depends_on"]["db"]["condition"] == "service_healthy"
    for name in ("worker", "worker-gpu"):
        condition = services[name]["depends_on"]["create"]["condition"]
        assert condition == "service_completed_successfully", name
        assert services[name]["stop_grace_period"] == "60s", name
    assert services["worker-gpu"]["profiles"] == ["gpu"]
    by_default = {name for name, service in services.items() if "profiles" not in service}
    assert by_default == {"db", "create", "worker", "dashboard", "proxy"}


def test_the_worker_takes_the_study_that_is_created() -> None:
    def commands(**variables: str) -> list[list[str]]:
        services = compose(**variables)["services"]
        return [services[name]["command"] for name in ("create", "worker", "worker-gpu")]

    quick = ["worker", "quickstart"]
    assert commands() == [["create", "studies/quickstart.toml"], quick, quick]
    assert commands(STUDY="a")[:2] == [["create", "studies/a.toml"], ["worker", "a"]]
    assert commands(STUDY="a", STUDY_NAME="b")[1] == ["worker", "b"]


# The passwords


@pytest.fixture(scope="module")
def checkout() -> Iterator[Path]:
    """A copy of deploy/ with passwords, which an unprivileged user can reach, as pytest's own
    temporary folders can't be."""
    with tempfile.TemporaryDirectory(prefix="tuner-compose-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        ignored = shutil.ignore_patterns(*SECRET_FILES)
        shutil.copytree(ROOT / "deploy", folder / "deploy", ignore=ignored)
        make_secrets(folder)
        yield folder


def make_secrets(folder: Path) -> str:
    words = ["sh", "secrets.sh"]
    made = subprocess.run(
        words, cwd=folder / "deploy", capture_output=True, text=True, timeout=10, check=True
    )
    return made.stdout


def test_secrets_are_made_once_and_only_their_owner_reaches_them(checkout: Path) -> None:
    folder = checkout / "deploy/secrets"
    password = (folder / "db_password").read_text()
    login = (folder / "dashboard_login").read_text()
    grafanas = (folder / "grafana_password").read_text()
    assert re.fullmatch(r"[A-Za-z0-9]{24}\n", password)
    assert re.fullmatch(r"tuner:[A-Za-z0-9]{24}\n", login)
    assert re.fullmatch(r"[A-Za-z0-9]{24}\n", grafanas)
    assert password.strip() not in login
    assert grafanas not in (password, login.removeprefix("tuner:"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "deploy/secrets/dashboard_login" in make_secrets(checkout)
    assert (folder / "db_password").read_text() == password
    assert (checkout / ".env").read_text() == "TUNER_SECRETS=./deploy/secrets\n"


def test_git_and_images_never_hold_secrets() -> None:
    for path in (*(f"deploy/secrets/{name}" for name in SECRET_FILES), ".env"):
        assert not in_build_context(path), path
        if (ROOT / ".git").exists():
            told = subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, check=False)
            assert told.returncode == 0, path


# Its services as processes


class Stack:
    """The services as plain processes, each as often as a test starts it."""

    def __init__(self, folder: Path, environment: dict[str, str], data: Path) -> None:
        self.folder, self.environment = folder, environment
        self.services: Yaml = compose(STUDY="tiny")["services"]
        self.ports = {name: free_port() for name in ("db", "dashboard", "proxy")}
        self.places = {place: folder / place.strip("/") for place in PLACES}
        self.places |= {"/run/secrets": folder / "secrets", "/data": data}
        self.running: list[subprocess.Popen[str]] = []
        for name in ("artifacts", "tmp", "studies", "home"):
            (folder / name).mkdir()
        # Compose mounts the files alone; the folder's mode stays behind on the host.
        shutil.copytree(folder / "deploy/secrets", folder / "secrets")
        (folder / "secrets").chmod(0o755)
        (folder / "studies/tiny.toml").write_text(TINY)

    def here(self, text: str, service: str) -> str:
        """The text with hosts, ports and folders of containers made those of this machine."""
        own = self.ports.get(service, 0)
        changes = {
            r"@db/": f"@127.0.0.1:{self.ports['db']}/",
            r"dashboard:8080\b": f"127.0.0.1:{self.ports['dashboard']}",
            r"\b8080\b": str(own),
            r"\b9100\b": str(free_port()),
            r"\b0\.0\.0\.0\b": "127.0.0.1",
        }
        changes |= {rf"(?<![\w.]){place}\b": str(at) for place, at in self.places.items()}
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
        mine = self.services[service].get("environment", {})
        return inside | {key: self.here(value, service) for key, value in mine.items()}

    def command(self, service: str) -> list[str]:
        definition = self.services[service]
        words = definition.get("entrypoint", ["tuner"]) + definition.get("command", [])
        return [self.here(word, service) for word in words]

    def start(
        self, service: str, command: list[str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        log = self.folder / f"{service}-{len(self.running)}.log"
        log.touch()
        log.chmod(0o666)  # nginx opens it once more, as its own user
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

    def said(self, process: subprocess.Popen[str]) -> str:
        return next(self.folder.glob(f"*-{self.running.index(process)}.log")).read_text()

    def finish(self, process: subprocess.Popen[str], timeout: float = 120) -> int:
        """Its exit code; what it said is the message if it does not end."""
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            pytest.fail(self.said(process))

    def healthy(self, service: str) -> bool:
        how, *words = self.services[service]["healthcheck"]["test"]
        assert how == "CMD"
        checked = subprocess.run(
            [self.here(word, service) for word in words],
            env=self.settings(service),
            capture_output=True,
            timeout=30,
            check=False,
        )
        return checked.returncode == 0

    def secret(self, name: str) -> str:
        return (self.places["/run/secrets"] / name).read_text().strip()

    def stop(self) -> None:
        for process in reversed(self.running):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def ordinary(folder: Path) -> dict[str, Any]:
    """Options that make a process another user's, who owns ``folder``: postgres won't run as root,
    and in the images postgres and nginx have users of their own."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def eventually(what: Callable[[], bool], process: subprocess.Popen[str], stack: Stack) -> None:
    """Wait until something holds; fail if the process ends first, or after two minutes."""
    for _ in range(1200):
        if what():
            return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    pytest.fail(stack.said(process))


@pytest.fixture(scope="module")
def stack(checkout: Path, environment: dict[str, str], digits: Path) -> Iterator[Stack]:
    """The database, set up as postgres' image does it, and running."""
    stack = Stack(checkout, environment, digits)
    try:
        start_database(stack)
        yield stack
    finally:
        stack.stop()


def start_database(stack: Stack) -> None:
    settings, folder = stack.settings("db"), stack.folder / "postgres"
    folder.mkdir()
    user = ordinary(folder)
    password = settings["POSTGRES_PASSWORD_FILE"]
    how = [settings["POSTGRES_INITDB_ARGS"], f"--username={settings['POSTGRES_USER']}"]
    made = stack.start("db", ["initdb", "-D", str(folder), f"--pwfile={password}", *how], **user)
    assert stack.finish(made) == 0, stack.said(made)
    assert not stack.healthy("db")
    server = stack.start("db", ["postgres", "-D", str(folder), "-k", str(folder)], **user)
    eventually(lambda: stack.healthy("db"), server, stack)
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


def test_the_database_is_healthy_and_wants_its_password(stack: Stack) -> None:
    assert stack.healthy("db")
    for wrong in (None, "", "tuner", "postgres"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            database(stack, wrong)


def create(stack: Stack) -> None:
    process = stack.start("create")
    assert stack.finish(process) == 0, stack.said(process)


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


@pytest.mark.usefixtures("created")
def test_workers_search_what_was_created_and_one_leaves_when_told(stack: Stack) -> None:
    create(stack)  # once more, as every further 'docker compose up' does
    told = stack.start("worker")
    eventually(lambda: epochs(stack) > 0, told, stack)
    [url] = re.findall(r"metrics: (http://127\.0\.0\.1:\d+/metrics)", stack.said(told))
    with urlopen(url, timeout=30) as answer:
        assert b'tuner_study_trials_wanted{study="tiny"} 4.0' in answer.read()
    told.terminate()
    grace = int(stack.services["worker"]["stop_grace_period"].removesuffix("s"))
    assert stack.finish(told, timeout=grace) == 0, stack.said(told)
    assert epochs(stack) < 9
    for worker in [stack.start("worker") for _ in range(2)]:
        assert stack.finish(worker) == 0, stack.said(worker)
    # All of the four there ever were: what was given back was gone on with, not lost and replaced.
    assert trials(stack, "COMPLETE", "PRUNED") == 4
    assert trials(stack, "RUNNING", "WAITING", "FAIL") == 0
    assert any(stack.places["/artifacts"].rglob("*.safetensors"))


@pytest.fixture(scope="module")
def dashboard(stack: Stack, created: None) -> subprocess.Popen[str]:
    process = stack.start("dashboard")
    eventually(lambda: stack.healthy("dashboard"), process, stack)
    return process


def test_the_dashboard_hides_the_password(stack: Stack, dashboard: subprocess.Popen[str]) -> None:
    listed = subprocess.run(
        ["ps", "-Aww", "-o", "args"], capture_output=True, text=True, check=True
    )
    assert f"dashboard --host 127.0.0.1 --port {stack.ports['dashboard']}" in listed.stdout
    assert stack.secret("db_password") not in listed.stdout
    assert stack.secret("db_password") not in stack.said(dashboard)


Answer = tuple[int, bytes]
Ask = Callable[..., Answer]


@pytest.fixture(scope="module")
def proxy(stack: Stack, dashboard: subprocess.Popen[str]) -> Ask:
    """Asks nginx, which runs with its real configuration in front of the real dashboard."""
    del dashboard
    require_nginx()
    for file in (stack.folder / "deploy/proxy").iterdir():
        file.write_text(stack.here(file.read_text(), "proxy"))
    process = stack.start("proxy", **ordinary(stack.places["/tmp"]))

    def ask(path: str, method: str = "GET", login: str = "", body: str = "", **more: str) -> Answer:
        headers = {"Content-Type": "application/json"} | {
            k.replace("_", "-"): v for k, v in more.items()
        }
        if login:
            headers["Authorization"] = "Basic " + b64encode(login.encode()).decode()
        connection = HTTPConnection("127.0.0.1", stack.ports["proxy"], timeout=20)
        try:
            connection.request(method, path, body or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", stack.ports["proxy"])) == 0

    eventually(listens, process, stack)
    return ask


def require_nginx() -> None:
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed; on Debian: apt-get install nginx")


def test_the_proxy_shows_the_dashboard_to_those_with_a_login(stack: Stack, proxy: Ask) -> None:
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


def test_only_those_with_a_login_can_write(stack: Stack, proxy: Ask) -> None:
    login = stack.secret("dashboard_login")

    def new(name: str, **more: str) -> int:
        body = f'{{"study_name": "{name}", "directions": ["minimize"]}}'
        return proxy("/api/studies", "POST", body=body, **more)[0]

    assert new("stranger") == 401
    assert new("guest", login="tuner:guess") == 401
    assert new("elsewhere", login=login, Sec_Fetch_Site="cross-site") == 403
    assert new("neighbour", login=login, Sec_Fetch_Site="same-site") == 403
    assert new("friend", login=login, Sec_Fetch_Site="same-origin") == 201
    assert new("script", login=login) == 201
    with database(stack, stack.secret("db_password")) as connection:
        names = connection.execute("select study_name from studies").fetchall()
    assert sorted(names) == [("friend",), ("script",), ("tiny",)]
    assert proxy("/api/studies/1", "DELETE")[0] == 401


@pytest.mark.parametrize("text", ["", "tuner", "tuner:\n", ":password\n", "a:b:c\n", "a:b\n\n"])
def test_the_proxy_refuses_a_login_that_is_none(text: str, tmp_path: Path) -> None:
    """Before nginx: an empty password would let everyone in."""
    file = tmp_path / "login"
    file.write_text(text)
    started = subprocess.run(
        ["sh", str(ROOT / "deploy/proxy/start.sh")],
        env={"PATH": os.environ["PATH"], "DASHBOARD_LOGIN_FILE": str(file)},
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    assert started.returncode == 2
    assert started.stderr == f"{file}: expected name:password, no other colon, on every line\n"


# The image


def steps(instruction: str) -> list[str]:
    """The arguments of every step of a kind, of steps that may go on over several lines."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M)
    found = re.findall(r"^([A-Z]+)\s+((?:.*\\\n)*.*)$", text, flags=re.M)
    return [
        re.sub(r"\s*\\\n\s*", " ", arguments) for name, arguments in found if name == instruction
    ]


def in_build_context(path: str) -> bool:
    """By .dockerignore: the last line that fits the path, or a folder above it, decides."""
    included = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        above = [path, *map(str, Path(path).parents)][:-1]
        if line and not line.startswith("#") and any(fits(part, pattern) for part in above):
            included = line.startswith("!")
    return included


def fits(path: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch(Path(path).name, pattern.removeprefix("**/"))
    return path.count("/") == pattern.count("/") and fnmatch(path, pattern)


def copied() -> list[str]:
    sources = [[w for w in step.split() if not w.startswith("--")][:-1] for step in steps("COPY")]
    return [source for step in sources for source in step]


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    assert {"pyproject.toml", "requirements.lock", "tuner", "studies"} <= set(copied())
    for source in copied():
        assert (ROOT / source).exists(), source
        assert in_build_context(source), source


def test_nothing_else_reaches_the_builder() -> None:
    for path in ROOT.iterdir():
        sources = [source.split("/")[0] for source in copied()]
        if path.name not in sources:
            assert not in_build_context(path.name), path
    assert in_build_context("tuner/cli.py")
    assert not in_build_context("tuner/run/__pycache__/x.pyc")
    assert not in_build_context("deploy/secrets.sh")


def test_dependencies_are_installed_before_the_sources_are_copied() -> None:
    """From no more than what the first COPY steps bring, else every edit would install them anew;
    with the versions of the lock."""
    text = (ROOT / "Dockerfile").read_text()
    first = text.index("pip install")
    assert "-c requirements.lock" in text[first:].splitlines()[0]
    assert text.index("COPY tuner tuner") > first
    assert "--no-deps" in text[text.index("COPY tuner tuner") :]


def test_the_image_has_the_extras_that_the_services_need() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    built = [s["build"]["args"]["EXTRAS"] for s in compose()["services"].values() if "build" in s]
    default = next(a.removeprefix("EXTRAS=") for a in steps("ARG") if a.startswith("EXTRAS="))
    for extras in (*built, default):
        assert {"demo", "s3"} <= set(extras.split(",")) <= set(project["optional-dependencies"])
    assert steps("ENTRYPOINT") == ['["tuner"]']
    assert "tuner" in project["scripts"]
    assert shutil.which("tuner", path=str(Path(sys.executable).parent))
    assert "optuna-dashboard" in " ".join(project["dependencies"])


def test_the_user_owns_what_volumes_are_mounted_on() -> None:
    """A new volume takes the owner of the folder that it is mounted on in the image."""
    made = next(step for step in steps("RUN") if "useradd" in step)
    assert steps("USER") == ["tuner"]
    assert "--owner=tuner" in made
    for volume in compose()["services"]["worker"]["volumes"]:
        _, target, *mode = volume.split(":")
        assert mode == ["ro"] or target in made.split(), volume
