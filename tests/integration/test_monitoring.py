"""Workers watched from outside: what they show to Prometheus, and what a dashboard makes of it."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from postgres import Postgres, free_port
from processes import Machine, Running, children, machines, steady, wait_until
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from rows import Rows
from ruamel.yaml import YAML

from tuner.study.database import Database
from tuner.study.store import StudyStore

ROOT = Path(__file__).parents[2]
DOCUMENTED = re.compile(r"<!-- metrics -->\n(.*?)<!-- end -->", re.DOTALL)
FIRST_EPOCHS = r"trial 0 epoch 2/"


class Scrape:
    """What a worker shows at one moment."""

    def __init__(self, port: int) -> None:
        # A database that is away may hold it up for a second; machines that are busy, for more.
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            self.text = answer.read().decode()
        families = text_string_to_metric_families(self.text)
        self.families: dict[str, Metric] = {family.name: family for family in families}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def all(self, name: str) -> dict[tuple[str, ...], float]:
        """By the values of their labels, in the order of the labels' names."""
        mine = [sample for sample in self.samples if sample.name == name]
        return {tuple(v for _, v in sorted(s.labels.items())): s.value for s in mine}

    def __getitem__(self, name: str) -> float:
        [value] = self.all(name).values()
        return value

    @property
    def trials(self) -> dict[str, float]:
        """By state, where there are any."""
        found = self.all("tuner_study_trials").items()
        return {state: number for (state, _), number in found if number}

    @property
    def names(self) -> set[str]:
        """As a person would call them: a histogram has one name, and ``_created`` is left out."""
        made = {re.sub(r"_(bucket|count|sum)$", "", sample.name) for sample in self.samples}
        return {name for name in made if not name.endswith("_created")}


class Site:
    """A worker with metrics, and the study it works on."""

    def __init__(self, machine: Machine, url: str, digits: Path) -> None:
        self.machine, self.rows, self.port = machine, Rows(url), free_port()
        machine.environment["TUNER_STORAGE"] = url
        (machine.folder / "s.toml").write_text(steady(digits, trials=4))
        machine.does("create", "s.toml")
        words = ("worker", "s", "--metrics-port", str(self.port))
        self.worker = machine.start(*words)
        self.worker.says(rf"metrics: http://127\.0\.0\.1:{self.port}/metrics")
        self.worker.says(FIRST_EPOCHS)
        self.store = StudyStore(Database(url), "s")

    def scrape(self) -> Scrape:
        return Scrape(self.port)

    def eventually(self, what: Callable[[Scrape], object], description: str) -> None:
        wait_until(lambda: what(self.scrape()), description)


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory,
    environment: dict[str, str],
    postgres: Postgres,
    digits: Path,
) -> Iterator[Site]:
    with machines(tmp_path_factory.mktemp("watched"), environment, "here") as [machine]:
        site = Site(machine, postgres.new_database(), digits)
        yield site
        site.store.database.rdb.engine.dispose()


def test_counters_grow_while_it_trains(site: Site) -> None:
    before = site.scrape()
    growing = (
        *("tuner_epochs_total", "tuner_images_total", "tuner_train_seconds_total"),
        *("tuner_evaluate_seconds_total", "tuner_database_transaction_seconds_count"),
    )
    site.eventually(lambda after: all(after[n] > before[n] for n in growing), "counters grow")
    renewed = ("renewed",)
    site.eventually(lambda s: s.all("tuner_lease_renewals_total")[renewed] > 0, "a renewed lease")
    assert before["tuner_images_total"] == before["tuner_epochs_total"] * 384


def test_the_trial_s_numbers_are_the_database_s(site: Site) -> None:
    seen = site.scrape()
    number, epoch = int(seen["tuner_trial_number"]), int(seen["tuner_trial_epoch"])
    [row] = [row for row in site.rows.epochs(number) if row[0] == epoch]
    _, fid, _, _, loss_ratio, d_auc, *_ = row
    for name, value in (("fid", fid), ("objective", fid), ("discriminator_auc", d_auc)):
        assert seen[f"tuner_trial_{name}"] == value, name
    assert seen["tuner_trial_loss_ratio"] == loss_ratio
    assert seen["tuner_trial_epochs"] == 5000
    seconds = f"SELECT train_seconds FROM tuner_epochs WHERE epoch = {epoch} ORDER BY trial_id"
    images_per_second = 384 / site.rows.read(seconds)[number].train_seconds
    assert seen["tuner_trial_images_per_second"] == pytest.approx(images_per_second)


def test_its_counters_are_sums_of_what_is_in_the_database(site: Site) -> None:
    def agree() -> bool:
        """Unless an epoch ends between the two looks."""
        query = "SELECT count(*) AS epochs, sum(train_seconds) AS train, sum(evaluate_seconds) AS e"
        [row] = site.rows.read(f"{query} FROM tuner_epochs")
        seen = site.scrape()
        if seen["tuner_epochs_total"] != row.epochs:
            return False
        assert seen["tuner_train_seconds_total"] == pytest.approx(row.train)
        assert seen["tuner_evaluate_seconds_total"] == pytest.approx(row.e)
        return True

    wait_until(agree, "a look between two epochs")


def test_it_says_who_and_what_it_is(site: Site) -> None:
    seen = site.scrape()
    [row] = site.rows.read("SELECT worker FROM tuner_workers")
    assert seen.all("tuner_worker_info") == {("s", row.worker): 1}
    [labels] = [s.labels for s in seen.samples if s.name == "tuner_build_info"]
    [trial] = site.store.trials()
    assert labels == trial.machine


def test_trials_are_those_of_the_study(site: Site) -> None:
    site.machine.does("enqueue", "s", "learning_rate=2e-5")
    site.rows.end()
    site.worker.says("trial 0 pruned: seen enough")
    site.worker.says("trial 1 epoch 1/")
    states = {state.lower(): number for state, number in site.store.summary().states.items()}
    assert states == {"pruned": 1, "running": 1}  # what was queued runs
    site.machine.does("enqueue", "s", "learning_rate=3e-5")
    states["waiting"] = 1
    site.eventually(lambda seen: seen.trials == states, "the study's trials")
    seen = site.scrape()
    assert seen["tuner_study_trials_wanted"] == site.store.total == 4
    assert seen["tuner_trial_number"] == 1
    assert seen.all("tuner_trials_ended_total") == {
        ("complete",): 0,
        ("fail",): 0,
        ("left",): 0,
        ("pruned",): 1,
    }


def test_names_and_types_are_as_prometheus_wants_them(site: Site) -> None:
    seen = site.scrape()
    assert len(seen.families) > 15
    for name, family in seen.families.items():
        assert re.fullmatch(r"tuner_[a-z_]+", name)
        assert re.search(r"\S.*\.$", family.documentation), name
        assert family.type in ("counter", "gauge", "histogram"), name
        assert family.samples, name
        # Base units alone, and nothing that could be short for one: d is days to promtool.
        assert not re.search(r"_([a-z]|ms|milliseconds|minutes|percent)(_|$)", name), name
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample
    assert set(re.findall(r"^(tuner_\w+?)(?:_bucket|_sum|_count)?[ {]", seen.text, re.M)) == set(
        re.findall(r"^# TYPE (\S+)", seen.text, re.M)
    )
    promtool = shutil.which("promtool")  # Debian's package prometheus
    if promtool is not None:
        words = [promtool, "check", "metrics"]
        done = subprocess.run(words, input=seen.text, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_documentation_names_what_is_shown_and_nothing_else(site: Site) -> None:
    [table] = DOCUMENTED.findall((ROOT / "docs/operations.md").read_text())
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.M)) == site.scrape().names


def expressions() -> list[str]:
    """What the dashboard asks Prometheus for."""
    text = (ROOT / "deploy/grafana/dashboards/tuner.json").read_text()
    board = json.loads(text)
    found = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return [*found, *(variable["query"] for variable in board["templating"]["list"])]


def test_the_dashboard_asks_for_what_is_shown(site: Site) -> None:
    seen = site.scrape()
    names = {sample.name for sample in seen.samples}
    labels = {label for sample in seen.samples for label in sample.labels} | {"job", "instance"}
    assert len(expressions()) > 10
    for expression in expressions():
        asked = set(re.findall(r"\btuner_\w+", expression))
        assert asked, expression
        assert asked <= names, expression
        told_apart = re.findall(r"(?:by|on|group_left) \(([\w, ]*)\)", expression)
        assert {label for group in told_apart for label in group.split(", ")} <= labels, expression


def yaml(path: str) -> Any:
    return YAML(typ="safe", pure=True).load((ROOT / path).read_text())


def test_prometheus_and_grafana_are_told_where_to_look() -> None:
    services = yaml("docker-compose.yml")["services"]
    [job] = yaml("deploy/prometheus.yml")["scrape_configs"]
    [names] = job["dns_sd_configs"]
    assert str(names["port"]) == services["worker"]["environment"]["TUNER_METRICS_PORT"]
    assert names["names"] == [name for name in services if name.startswith("worker")]
    provisioning = "deploy/grafana/provisioning"
    [source] = yaml(f"{provisioning}/datasources/prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert services["prometheus"]["ports"][0].endswith(":9090")
    board = (ROOT / "deploy/grafana/dashboards/tuner.json").read_text()
    assert set(re.findall(r'"type": "prometheus",\s+"uid": "(\w+)"', board)) == {source["uid"]}
    [provider] = yaml(f"{provisioning}/dashboards/tuner.yml")["providers"]
    mounted = f"./deploy/grafana/dashboards:{provider['options']['path']}:ro"
    assert mounted in services["grafana"]["volumes"]


def test_a_port_that_is_taken_is_said_before_anything_is_trained(site: Site) -> None:
    """Taken by the worker above, which goes on undisturbed."""
    taken = f"--metrics-port: found {site.port} of 127.0.0.1: Address already in use"
    words = ("--metrics-port", str(site.port))
    assert taken in site.machine.refuses(2, "worker", "s", *words)
    assert taken in site.machine.refuses(2, "sweep", "s.toml", "--workers", "2", *words)
    assert len(site.rows.read("SELECT * FROM tuner_workers")) == 1
    for host in ("", "nowhere.invalid", "192.0.2.1"):
        said = site.machine.refuses(2, "worker", "s", *words, "--metrics-host", host)
        assert f"--metrics-host: found {host!r}, expected an address of this machine" in said
    said = site.machine.refuses(2, "sweep", "s.toml", "--workers", "3", "--metrics-port", "65534")
    assert "--metrics-port: found 65534 for 3 workers, expected at most 65533" in said


def test_a_database_that_is_away_leaves_gaps_and_nothing_waits_for_it(
    site: Site, postgres: Postgres
) -> None:
    epoch = site.scrape()["tuner_trial_epoch"]
    postgres.stop("immediate")
    try:
        site.worker.says("trying again for up to 600 s")
        site.eventually(lambda seen: seen["tuner_database_up"] == 0, "it is seen to be away")
        away = site.scrape()
        assert away.trials == {}
        assert away.all("tuner_study_trials_wanted") == {}
        assert away["tuner_trial_epoch"] >= epoch
        failed = ("failed",)
        site.eventually(lambda s: s.all("tuner_lease_renewals_total")[failed] > 0, "no renewal")
        site.eventually(lambda s: s["tuner_database_retries_total"] > 1, "more attempts")
        assert site.scrape()["tuner_heartbeat_timestamp_seconds"] == pytest.approx(
            away["tuner_heartbeat_timestamp_seconds"]
        )
    finally:
        postgres.start()
    site.worker.says("it answers again")
    site.eventually(
        lambda seen: seen["tuner_database_up"] == 1 and seen.trials["running"] == 1, "it is back"
    )


def test_who_keeps_silent_or_hangs_up_does_not_keep_it_from_leaving(site: Site) -> None:
    silent = socket.create_connection(("127.0.0.1", site.port))
    rude = socket.create_connection(("127.0.0.1", site.port))
    rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    rude.sendall(b"GET /metrics HT")
    rude.close()  # with a reset
    assert site.scrape()["tuner_database_up"] == 1
    site.worker.signal(signal.SIGTERM)
    site.worker.says("trial 1 left for later")
    assert site.worker.ends() == 0, site.worker
    silent.close()
    assert site.worker.errors == ""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", site.port))


def two_ports() -> int:
    """The first of two free ones that follow each other."""
    while True:
        first = free_port()
        with socket.socket() as second:
            if second.connect_ex(("127.0.0.1", first + 1)):
                return first


def test_each_worker_of_a_sweep_has_a_port_of_its_own_and_so_has_who_replaces_it(
    tmp_path: Path, environment: dict[str, str], digits: Path
) -> None:
    with machines(tmp_path, environment, "here") as [machine]:
        (machine.folder / "s.toml").write_text(steady(digits, trials=3))
        first = two_ports()
        words = ("--workers", "2", "--respawn", "1", "--metrics-port", str(first))
        sweep: Running = machine.start("sweep", "s.toml", *words)
        sweep.says(r"trial \d epoch")
        wait_until(lambda: {number(first), number(first + 1)} == {0, 1}, "each its trial")
        os.kill(children(sweep.pid)[0], signal.SIGKILL)
        sweep.says(r"worker \d is replaced")
        sweep.says(r"metrics: http://127.0.0.1")
        wait_until(lambda: {number(first), number(first + 1)} == {0, 1}, "each its trial again")
        sweep.signal(signal.SIGINT)
        assert sweep.ends() == 0, sweep
        assert sweep.errors == ""


def number(port: int) -> float | None:
    """The trial in training, once a worker shows one."""
    try:
        return next(iter(Scrape(port).all("tuner_trial_number").values()), None)
    except OSError:
        return None
