"""``Monitor``: metrics of a worker, which Prometheus scrapes over HTTP.

Imported only if a metrics port is given.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from tuner import web
from tuner.epoch_report import MEASUREMENTS, EpochReport
from tuner.errors import InputError
from tuner.phases import Phase
from tuner.study.claims import Claim
from tuner.study.session import WorkerSession
from tuner.study.sinks import Ending, Released
from tuner.study.snapshot import BackgroundPoller, StudySnapshot
from tuner.study.store import StudyStore
from tuner.study.verdict import Complete, Fail, Pause, Prune

OUTCOMES = {Complete: "complete", Pause: "paused", Prune: "pruned", Fail: "fail", Released: "left"}
LAST_PORT = 65535
OPTIONS = "--metrics-"  # prefix of the options for host and port
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)  # seconds

GAUGES = {f"tuner_trial_{field.gauge}": field for field in MEASUREMENTS if field.gauge}
MEANINGS = {
    "tuner_worker_info": "This worker and its study; join it to other metrics by instance.",
    "tuner_build_info": "Versions of tuner and the libraries that it computes with; device; host.",
    "tuner_epochs_total": "Epochs trained and reported, without those repeated after a takeover.",
    "tuner_images_total": "Real images trained on in these epochs; the rate includes idle time.",
    "tuner_train_seconds_total": "Time spent training in these epochs, without compilation.",
    "tuner_evaluate_seconds_total": "Time spent evaluating after them, without compilation.",
    "tuner_phase_seconds_total": f"Time of this worker by phase: {', '.join(Phase)}; grows when "
    "the phase changes.",
    "tuner_trials_ended_total": "Trials that this worker ended: complete, pruned or fail; or left: "
    "released, or lost to another worker.",
    "tuner_trial_number": "Number of the trial in training; tuner_trial_... are absent if none is.",
    "tuner_trial_epoch": "Last reported epoch of that trial.",
    "tuner_trial_epochs": "Number of epochs of that trial, unless it is pruned.",
    "tuner_trial_objective": "The study's first objective, at the last evaluation.",
    **{
        name: f"{field.label}: {field.meaning}, when last measured."
        for name, field in GAUGES.items()
    },
    "tuner_trial_own": "Each custom metric, when last measured.",
    "tuner_trial_images_per_second": "Real images trained on per second in the last epoch, without "
    "compilation.",
    "tuner_study_trials": "Trials of the study by state, of all its workers together: take the max "
    "over workers, not the sum.",
    "tuner_study_trials_wanted": "Complete and pruned trials after which the study ends.",
    "tuner_study_on_hold": "1 while the study is on hold (tuner pause), else 0.",
    "tuner_study_budget_spent": "Amount spent by all workers of each key of [budget], in its unit.",
    "tuner_study_budget_limit": "Limit of each [budget] key; absent if the study has none.",
    "tuner_database_up": "1 if the database answered when trials were last counted; if 0, "
    "tuner_study_... are absent.",
    "tuner_database_transaction_seconds": "Duration of a transaction of the training thread, with "
    "its commit.",
    "tuner_database_retries_total": "Database operations retried after a transient failure.",
    "tuner_lease_renewals_total": "Renewals of this worker's leases: renewed; failed, without the "
    "database; refused, if the trial is another worker's or has just ended.",
    "tuner_heartbeat_timestamp_seconds": "Time of the last heartbeat that the database stored; "
    "time() minus this is its age.",
}
LABELS = {  # an info metric may have more
    "tuner_phase_seconds_total": ("phase",),
    "tuner_worker_info": ("study", "worker"),
    "tuner_trials_ended_total": ("outcome",),
    "tuner_trial_own": ("metric",),
    "tuner_study_trials": ("study", "state"),
    "tuner_study_trials_wanted": ("study",),
    "tuner_study_on_hold": ("study",),
    "tuner_study_budget_spent": ("study", "key"),
    "tuner_study_budget_limit": ("study", "key"),
    "tuner_lease_renewals_total": ("outcome",),
}


_Values = Mapping[tuple[str, ...], float]  # of a metric, by the values of its labels


def kind_of(name: str) -> str:
    """The type of a metric, which its name implies."""
    kinds = {"total": "counter", "info": "info", "transaction_seconds": "histogram"}
    return next((kind for end, kind in kinds.items() if name.endswith(end)), "gauge")


def _family(name: str, values: Mapping[Any, Any]) -> Any:
    """The metric with ``values`` by label values; the value of an info metric is more labels."""
    families: dict[str, Any] = {
        "counter": CounterMetricFamily,
        "gauge": GaugeMetricFamily,
        "info": InfoMetricFamily,
    }
    stem, labels = name.removesuffix("_info"), LABELS.get(name, ())
    family = families[kind_of(name)](stem, MEANINGS[name], labels=labels)
    for names, value in values.items():
        family.add_metric(names, value)
    return family


class Monitor(Collector):
    """A ``TrialSink`` that counts what a worker does, and a collector that Prometheus scrapes."""

    def __init__(self, store: StudyStore) -> None:
        self._study, self._objective = store.name, store.spec.metrics.objective
        self._poller = BackgroundPoller(store)
        # Metrics of the trial in training, replaced as a whole: a scrape never mixes two epochs.
        self._trial: dict[str, _Values] = {}
        self._session: WorkerSession | None = None
        self.registry = CollectorRegistry()
        self._epochs = self._counter("tuner_epochs_total")
        self._images = self._counter("tuner_images_total")
        self._train = self._counter("tuner_train_seconds_total")
        self._evaluate = self._counter("tuner_evaluate_seconds_total")
        self._ended = self._counter("tuner_trials_ended_total")
        for outcome in OUTCOMES.values():
            self._ended.labels(outcome)
        name = "tuner_database_transaction_seconds"
        self._transactions = Histogram(
            name, MEANINGS[name], buckets=BUCKETS, registry=self.registry
        )
        self.registry.register(self)

    def _counter(self, name: str) -> Counter:
        return Counter(name, MEANINGS[name], LABELS.get(name, ()), registry=self.registry)

    def watch(self, session: WorkerSession) -> None:
        """Also observe the worker's database transactions and leases."""
        session.store.database.watch(self._transactions.observe)
        self._session = session

    def started(self, claim: Claim) -> None:
        trial: dict[str, _Values] = {
            "tuner_trial_number": {(): claim.number},
            "tuner_trial_epoch": {(): 0},
            "tuner_trial_epochs": {(): claim.config.epochs},
        }
        for report in claim.history:
            trial |= self._measured(report)
        self._trial = trial

    def epoch(self, claim: Claim, report: EpochReport) -> None:
        self._epochs.inc()
        self._images.inc(report.images / report.epoch)
        self._train.inc(report.train_seconds)
        self._evaluate.inc(report.evaluate_seconds)
        self._trial = self._trial | self._measured(report)

    def _measured(self, report: EpochReport) -> dict[str, _Values]:
        """The metrics of the trial that the epoch changes."""
        found = {
            "tuner_trial_epoch": report.epoch,
            "tuner_trial_objective": report.value(self._objective),
            **{name: getattr(report, field.name) for name, field in GAUGES.items()},
            "tuner_trial_images_per_second": report.images_per_second,
        }
        known: dict[str, _Values] = {n: {(): v} for n, v in found.items() if v is not None}
        if report.own:
            known["tuner_trial_own"] = {(name,): value for name, value in report.own.items()}
        return known

    def ended(self, claim: Claim, ending: Ending) -> None:
        self._ended.labels(OUTCOMES[type(ending)]).inc()
        self._trial = {}

    def announce(self, text: str, part: float | None = None) -> None:
        return None

    def collect(self) -> Iterator[Metric]:
        """Yield metrics that are read at each scrape; unknown ones are omitted."""
        snapshot = self._poller.snapshot()
        yield _family("tuner_database_up", {(): float(snapshot is not None)})
        if snapshot is not None:
            yield from _collect_study(snapshot, self._study)
        for name, values in self._trial.items():
            yield _family(name, values)
        if self._session is not None:
            yield from _collect_worker(self._session, self._study)


def _collect_study(snapshot: StudySnapshot, study: str) -> Iterator[Metric]:
    counts = {(study, state): number for state, number in snapshot.counts.items()}
    yield _family("tuner_study_trials", counts)
    yield _family("tuner_study_trials_wanted", {(study,): snapshot.total})
    yield _family("tuner_study_on_hold", {(study,): float(snapshot.on_hold)})
    spent, limits = snapshot.budget.spent, snapshot.budget.section.limits
    if limits:
        used = {(study, key): float(getattr(spent, key)) for key in limits}
        yield _family("tuner_study_budget_spent", used)
        yield _family("tuner_study_budget_limit", {(study, key): v for key, v in limits.items()})


def _collect_worker(session: WorkerSession, study: str) -> Iterator[Metric]:
    stats = session.stats()
    phases = {(phase,): seconds for phase, seconds in session.clock.seconds().items()}
    yield _family("tuner_phase_seconds_total", phases)
    yield _family("tuner_database_retries_total", {(): stats.retries})
    renewals = {(outcome,): number for outcome, number in stats.renewals.items()}
    yield _family("tuner_lease_renewals_total", renewals)
    if stats.last_beat is not None:
        yield _family("tuner_heartbeat_timestamp_seconds", {(): stats.last_beat})
    yield _family("tuner_build_info", {(): session.machine})
    yield _family("tuner_worker_info", {(study, session.worker): {}})


# Serving


@contextmanager
def monitored(
    store: StudyStore, host: str, port: int, announce: Callable[[str], None]
) -> Iterator[Monitor]:
    """Serve a monitor's metrics at ``http://host:port/metrics``; port 0 is any free one.

    InputError if the port is taken or the address is not this machine's.
    """
    monitor = Monitor(store)
    server = web.server(host, port, make_wsgi_app(monitor.registry), OPTIONS)
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        announce(f"metrics: {web.address(host, server.server_port)}metrics")
        yield monitor
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ports(host: str, first: int, count: int) -> list[int]:
    """Return one port per worker, consecutive from ``first``; all 0 (any free port) if it is 0.

    InputError if a port is not available.
    """
    if first == 0:
        return [0] * count
    if first + count - 1 > LAST_PORT:
        raise InputError(
            f"--metrics-port: found {first} for {count} workers, expected at most "
            f"{LAST_PORT - count + 1}"
        )
    found = list(range(first, first + count))
    for port in found:
        web.try_port(host, port, OPTIONS)
    return found
