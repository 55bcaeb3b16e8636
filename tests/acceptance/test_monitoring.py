"""Prometheus metrics of workers, and the Grafana dashboard that queries them."""

import contextlib
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
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from postgres import Postgres, free_port
from processes import (
    UNPRUNED_IMAGES,
    Machine,
    Running,
    children,
    machines,
    unpruned_study,
    wait_until,
)
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from rows import Rows
from ruamel.yaml import YAML

from tuner.run.monitoring import MEANINGS
from tuner.study.database import Database
from tuner.study.store import StudyStore
from tuner.web import MAX_CONNECTIONS

ROOT = Path(__file__).parents[2]
FIRST_EPOCHS = r"trial 0 epoch 2/"


class Scrape:
    """One scrape of a worker's metrics."""

    def __init__(self, port: int) -> None:
        # An unreachable database may delay the response by a second, a busy machine by more.
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as response:
            self.text = response.read().decode()
        families = text_string_to_metric_families(self.text)
        self.families: dict[str, Metric] = {family.name: family for family in families}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def all(self, name: str) -> dict[tuple[str, ...], float]:
        """The samples of a metric by label values, in the order of label names."""
        own = [sample for sample in self.samples if sample.name == name]
        return {tuple(v for _, v in sorted(s.labels.items())): s.value for s in own}

    def __getitem__(self, name: str) -> float:
        [value] = self.all(name).values()
        return value

    @property
    def trials(self) -> dict[str, float]:
        """The nonzero numbers of trials by state."""
        found = self.all("tuner_study_trials").items()
        return {state: number for (state, _), number in found if number}

    @property
    def names(self) -> set[str]:
        """The names of the metrics, one per histogram, without ``_created``."""
        names = {re.sub(r"_(bucket|count|sum)$", "", sample.name) for sample in self.samples}
        return {name for name in names if not name.endswith("_created")}


class Site:
    """A study and a worker that exports metrics."""

    def __init__(self, machine: Machine, url: str, digits: Path) -> None:
        self.machine, self.rows, self.port = machine, Rows(url), free_port()
        machine.environment["TUNER_STORAGE"] = url
        study = f"{unpruned_study(digits, trials=4)}[budget]\nepochs = 1_000_000\n"
        (machine.folder / "s.toml").write_text(study)
        machine.succeeds("create", "s.toml")
        words = ("worker", "s", "--metrics-port", str(self.port))
        self.worker = machine.start(*words)
        self.worker.wait_for(rf"metrics: http://127\.0\.0\.1:{self.port}/metrics")
        self.worker.wait_for(FIRST_EPOCHS)
        self.store = StudyStore(Database(url), "s")

    def scrape(self) -> Scrape:
        return Scrape(self.port)

    def wait_until(self, condition: Callable[[Scrape], object], description: str) -> None:
        wait_until(lambda: condition(self.scrape()), description)


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
    site.wait_until(lambda after: all(after[n] > before[n] for n in growing), "counters grow")
    renewed = ("renewed",)
    site.wait_until(lambda s: s.all("tuner_lease_renewals_total")[renewed] > 0, "a renewed lease")
    assert before["tuner_images_total"] == before["tuner_epochs_total"] * UNPRUNED_IMAGES


def test_trial_metrics_match_the_database(site: Site) -> None:
    seen = site.scrape()
    number, epoch = int(seen["tuner_trial_number"]), int(seen["tuner_trial_epoch"])
    [row] = [row for row in site.rows.epochs(number) if row[0] == epoch]
    _, fid, _, _, loss_ratio, d_auc, *_ = row
    for name, value in (("fid", fid), ("objective", fid), ("discriminator_auc", d_auc)):
        assert seen[f"tuner_trial_{name}"] == value, name
    assert seen["tuner_trial_loss_ratio"] == loss_ratio
    assert seen["tuner_trial_epochs"] == 5000
    seconds = f"SELECT train_seconds FROM tuner_epochs WHERE epoch = {epoch} ORDER BY trial_id"
    images_per_second = UNPRUNED_IMAGES / site.rows.read(seconds)[number].train_seconds
    assert seen["tuner_trial_images_per_second"] == pytest.approx(images_per_second)


def test_counters_match_sums_over_the_database(site: Site) -> None:
    def agree() -> bool:
        """Compare them; False if an epoch ended between the query and the scrape."""
        query = "SELECT count(*) AS epochs, sum(train_seconds) AS train, sum(evaluate_seconds) AS e"
        [row] = site.rows.read(f"{query} FROM tuner_epochs")
        seen = site.scrape()
        if seen["tuner_epochs_total"] != row.epochs:
            return False
        assert seen["tuner_train_seconds_total"] == pytest.approx(row.train)
        assert seen["tuner_evaluate_seconds_total"] == pytest.approx(row.e)
        return True

    wait_until(agree, "a query and a scrape within one epoch")


def test_the_info_metric_describes_the_worker(site: Site) -> None:
    seen = site.scrape()
    [row] = site.rows.read("SELECT worker FROM tuner_workers")
    assert seen.all("tuner_worker_info") == {("s", row.worker): 1}
    [labels] = [s.labels for s in seen.samples if s.name == "tuner_build_info"]
    [trial] = site.store.trials()
    assert labels == trial.machine


def test_trials_are_those_of_the_study(site: Site) -> None:
    site.machine.succeeds("enqueue", "s", "learning_rate=2e-5")
    site.rows.request_prune()
    site.worker.wait_for("trial 0 pruned: seen enough")
    site.worker.wait_for("trial 1 epoch 1/")
    states = {state.lower(): number for state, number in site.store.summary().states.items()}
    assert states == {"pruned": 1, "running": 1}  # the queued trial runs
    site.machine.succeeds("enqueue", "s", "learning_rate=3e-5")
    states["waiting"] = 1
    site.wait_until(lambda seen: seen.trials == states, "the study's trials")
    seen = site.scrape()
    assert seen["tuner_study_trials_wanted"] == site.store.total == 4
    assert seen["tuner_trial_number"] == 1
    assert seen.all("tuner_trials_ended_total") == {
        ("complete",): 0,
        ("fail",): 0,
        ("left",): 0,
        ("paused",): 0,
        ("pruned",): 1,
    }


def test_names_and_types_follow_prometheus_conventions(site: Site) -> None:
    seen = site.scrape()
    assert len(seen.families) > 15
    for name, family in seen.families.items():
        assert re.fullmatch(r"tuner_[a-z_]+", name)
        assert re.search(r"\S.*\.$", family.documentation), name
        assert family.type in ("counter", "gauge", "histogram"), name
        assert family.samples, name
        # Only base units, and no abbreviations: promtool reads d as days.
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


def test_the_descriptions_cover_exactly_the_metrics(site: Site) -> None:
    """The documentation lists the same descriptions."""
    of_other_studies = {"tuner_trial_own", "tuner_trial_augmentation"}
    assert set(MEANINGS) == site.scrape().names | of_other_studies


def expressions() -> list[str]:
    """The Prometheus queries of the Grafana dashboard."""
    dashboard = json.loads((ROOT / "deploy/grafana/dashboards/tuner.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return [*found, *(variable["query"] for variable in dashboard["templating"]["list"])]


def test_the_grafana_dashboard_queries_existing_metrics(site: Site) -> None:
    seen = site.scrape()
    names = {sample.name for sample in seen.samples}
    labels = {label for sample in seen.samples for label in sample.labels} | {"job", "instance"}
    assert len(expressions()) > 10
    for expression in expressions():
        queried = set(re.findall(r"\btuner_\w+", expression))
        assert queried, expression
        assert queried <= names, expression
        groups = re.findall(r"(?:by|on|group_left) \(([\w, ]*)\)", expression)
        assert {label for group in groups for label in group.split(", ")} <= labels, expression


def yaml(path: str) -> Any:
    return YAML(typ="safe", pure=True).load((ROOT / path).read_text())


def test_prometheus_and_grafana_configurations_agree() -> None:
    services = yaml("docker-compose.yml")["services"]
    [job] = yaml("deploy/prometheus.yml")["scrape_configs"]
    [names] = job["dns_sd_configs"]
    assert str(names["port"]) == services["worker"]["environment"]["TUNER_METRICS_PORT"]
    assert names["names"] == [name for name in services if name.startswith("worker")]
    provisioning = "deploy/grafana/provisioning"
    [source] = yaml(f"{provisioning}/datasources/prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert services["prometheus"]["ports"][0].endswith(":9090")
    dashboard = (ROOT / "deploy/grafana/dashboards/tuner.json").read_text()
    assert set(re.findall(r'"type": "prometheus",\s+"uid": "(\w+)"', dashboard)) == {source["uid"]}
    [provider] = yaml(f"{provisioning}/dashboards/tuner.yml")["providers"]
    mount = f"./deploy/grafana/dashboards:{provider['options']['path']}:ro"
    assert mount in services["grafana"]["volumes"]


def test_a_taken_port_is_reported_before_training(site: Site) -> None:
    """The worker that holds the port is not disturbed."""
    message = f"--metrics-port: can't use {site.port} on 127.0.0.1: Address already in use"
    words = ("--metrics-port", str(site.port))
    assert message in site.machine.fails_with(2, "worker", "s", *words)
    assert message in site.machine.fails_with(2, "sweep", "s.toml", "--workers", "2", *words)
    assert len(site.rows.read("SELECT * FROM tuner_workers")) == 1
    for host in ("", "nowhere.invalid", "192.0.2.1"):
        error = site.machine.fails_with(2, "worker", "s", *words, "--metrics-host", host)
        assert f"--metrics-host: found {host!r}, expected an address of this machine" in error
    error = site.machine.fails_with(
        2, "sweep", "s.toml", "--workers", "3", "--metrics-port", "65534"
    )
    assert "--metrics-port: found 65534 for 3 workers, expected at most 65533" in error


def test_an_unreachable_database_leaves_gaps_and_blocks_nothing(
    site: Site, postgres: Postgres
) -> None:
    epoch = site.scrape()["tuner_trial_epoch"]
    postgres.stop("immediate")
    try:
        site.worker.wait_for("trying again for up to 600 s")
        site.wait_until(lambda seen: seen["tuner_database_up"] == 0, "the outage shows")
        during = site.scrape()
        assert during.trials == {}
        assert during.all("tuner_study_trials_wanted") == {}
        assert during["tuner_trial_epoch"] >= epoch
        failed = ("failed",)
        site.wait_until(
            lambda s: s.all("tuner_lease_renewals_total")[failed] > 0, "a failed renewal"
        )
        site.wait_until(lambda s: s["tuner_database_retries_total"] > 1, "more attempts")
        assert site.scrape()["tuner_heartbeat_timestamp_seconds"] == pytest.approx(
            during["tuner_heartbeat_timestamp_seconds"]
        )
    finally:
        postgres.start()
    site.worker.wait_for("recovered; continuing")
    site.wait_until(
        lambda seen: seen["tuner_database_up"] == 1 and seen.trials["running"] == 1,
        "the recovery shows",
    )


def test_many_connections_do_not_exhaust_file_descriptors(site: Site) -> None:
    """More connections than the port serves: idle, slow, half-open, and with huge headers."""
    files = Path(f"/proc/{site.worker.pid}/fd")
    before, epochs = len(list(files.iterdir())), site.scrape()["tuner_epochs_total"]
    with contextlib.ExitStack() as stack:
        for number in range(300):
            client = socket.create_connection(("127.0.0.1", site.port))
            stack.enter_context(client)
            with contextlib.suppress(OSError):  # already closed by the server
                client.sendall((b"", b"GET / HTTP/1.1\r\nA: ", b"x" * 100_000)[number % 3])
        assert len(list(files.iterdir())) < before + MAX_CONNECTIONS + 20
        stored = len(site.rows.epochs(1))
        wait_until(lambda: len(site.rows.epochs(1)) > stored, "training continues")
    site.wait_until(lambda seen: seen["tuner_epochs_total"] > epochs, "scrapes succeed again")


def test_a_rebound_host_name_is_refused(site: Site) -> None:
    request = Request(f"http://127.0.0.1:{site.port}/metrics", headers={"Host": "evil.example"})
    with pytest.raises(HTTPError) as caught, urlopen(request, timeout=20):
        pass
    with caught.value as response:
        assert (response.code, b"tuner_" in response.read()) == (403, False)


def test_silent_clients_do_not_delay_the_exit(site: Site) -> None:
    silent = socket.create_connection(("127.0.0.1", site.port))
    aborted = socket.create_connection(("127.0.0.1", site.port))
    aborted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    aborted.sendall(b"GET /metrics HT")
    aborted.close()  # with a reset
    assert site.scrape()["tuner_database_up"] == 1
    site.worker.signal(signal.SIGTERM)
    site.worker.wait_for("trial 1 released, to be resumed")
    assert site.worker.wait() == 0, site.worker
    silent.close()
    assert site.worker.errors == ""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", site.port))


def test_each_worker_of_a_sweep_has_its_own_port(
    tmp_path: Path, environment: dict[str, str], digits: Path
) -> None:
    with machines(tmp_path, environment, "here") as [machine]:
        (machine.folder / "s.toml").write_text(unpruned_study(digits, trials=3))
        first = free_port(count=2)
        words = ("--workers", "2", "--respawn", "1", "--metrics-port", str(first))
        sweep: Running = machine.start("sweep", "s.toml", *words)
        sweep.wait_for(r"trial \d epoch")
        wait_until(
            lambda: {trial_number(first), trial_number(first + 1)} == {0, 1},
            "each worker has a trial",
        )
        os.kill(children(sweep.pid)[0], signal.SIGKILL)
        sweep.wait_for(r"replacing worker \d")
        sweep.wait_for(r"metrics: http://127.0.0.1")
        wait_until(
            lambda: {trial_number(first), trial_number(first + 1)} == {0, 1},
            "each worker has a trial again",
        )
        sweep.signal(signal.SIGINT)
        assert sweep.wait() == 0, sweep
        assert sweep.errors == ""


def trial_number(port: int) -> float | None:
    """The number of the trial that the worker at a port trains, if any."""
    try:
        return next(iter(Scrape(port).all("tuner_trial_number").values()), None)
    except OSError:
        return None
