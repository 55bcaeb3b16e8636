"""A worker watched from outside: what it does, as metrics that Prometheus scrapes over HTTP.

Imported only where a port for them was asked for.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from tuner.errors import InputError
from tuner.run import web
from tuner.run.events import Listener
from tuner.study.census import Census
from tuner.study.membership import Claim, Membership
from tuner.study.store import StudyStore
from tuner.study.verdict import Complete, Fail, Prune, Verdict
from tuner.trial import EpochReport

OUTCOMES = {Complete: "complete", Prune: "pruned", Fail: "fail"}
LAST_PORT = 65535
OPTIONS = "--metrics-"  # as host and port are given
LEFT = "left"  # to other workers, or lost to one
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)  # seconds

TRIAL = {
    "number": "The trial in training.",
    "epoch": "The last of its epochs that is reported.",
    "epochs": "The epochs it will have unless it is pruned.",
    "objective": "What the study minimises, as measured last.",
    "fid": "FID, as measured last.",
    "loss_ratio": "D's loss over G's, each in units of indifference, in the last epoch.",
    # Not d_auc: promtool takes a d for days.
    "discriminator_auc": "How well D tells real from generated images: 0.5 is not at all.",
    "images_per_second": "Real images trained on a second, in the last epoch.",
}


class _Trial(NamedTuple):
    """The trial in training; never changed, so that a scrape sees one epoch's numbers only."""

    claim: Claim
    epoch: int
    measured: dict[str, float]  # what is known, by its name in ``TRIAL``

    def after(self, report: EpochReport, objective: str) -> "_Trial":
        found = {
            "objective": report.value(objective),
            "fid": report.fid,
            "loss_ratio": report.loss_ratio,
            "discriminator_auc": report.d_auc,
            "images_per_second": report.images_per_second,
        }
        known = {name: value for name, value in found.items() if value is not None}
        return self._replace(epoch=report.epoch, measured=self.measured | known)


class Monitor(Collector):
    """An observer that keeps count of what it hears, passes it on to ``view``, and is scraped."""

    def __init__(self, view: Listener, store: StudyStore) -> None:
        self._view, self._study, self._objective = view, store.name, store.spec.metrics.objective
        self._census = Census(store)
        self._trial: _Trial | None = None
        self._membership: Membership | None = None
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        self._epochs = counter("tuner_epochs_total", "Epochs trained and reported.")
        self._images = counter("tuner_images_total", "Real images trained on.")
        self._train = counter("tuner_train_seconds_total", "Time spent on training.")
        self._evaluate = counter("tuner_evaluate_seconds_total", "Time spent on evaluating.")
        self._ended = counter(
            "tuner_trials_ended_total", "Trials that this worker ended or left.", ["outcome"]
        )
        for outcome in (*OUTCOMES.values(), LEFT):
            self._ended.labels(outcome)
        self._transactions = Histogram(
            "tuner_database_transaction_seconds",
            "Time of a transaction of the thread that trains.",
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.registry.register(self)

    def watch(self, membership: Membership) -> None:
        """Look on how the worker gets on with its database, too."""
        membership.store.database.watch(self._transactions.observe)
        self._membership = membership

    # What it hears

    def trial_started(self, claim: Claim) -> None:
        trial = _Trial(claim, 0, {})
        for report in claim.history:
            trial = trial.after(report, self._objective)
        self._trial = trial
        self._view.trial_started(claim)

    def epoch_done(self, claim: Claim, report: EpochReport) -> None:
        self._epochs.inc()
        self._images.inc(report.images / report.epoch)
        self._train.inc(report.train_seconds)
        self._evaluate.inc(report.evaluate_seconds)
        if self._trial is not None:
            self._trial = self._trial.after(report, self._objective)
        self._view.epoch_done(claim, report)

    def trial_ended(self, claim: Claim, verdict: Verdict) -> None:
        self._ended.labels(OUTCOMES[type(verdict)]).inc()
        self._trial = None
        self._view.trial_ended(claim, verdict)

    def trial_left(self, claim: Claim, why: str) -> None:
        self._ended.labels(LEFT).inc()
        self._trial = None
        self._view.trial_left(claim, why)

    def announce(self, text: str, part: float | None = None) -> None:
        self._view.announce(text, part)

    # What it tells, when it is scraped

    def collect(self) -> Iterator[Metric]:
        """What is not counted here, but looked up; nothing of what is not known."""
        yield from self._collect_study()
        yield from self._collect_trial()
        if self._membership is not None:
            yield from _collect_worker(self._membership, self._study)

    def _collect_study(self) -> Iterator[Metric]:
        count = self._census.count()
        yield GaugeMetricFamily(
            "tuner_database_up",
            "Whether the database answered when the study's trials were last counted.",
            value=float(count is not None),
        )
        if count is None:
            return
        text = "Trials of the study, of all its workers together, by state."
        trials = GaugeMetricFamily("tuner_study_trials", text, labels=["study", "state"])
        for state, number in count.states.items():
            trials.add_metric([self._study, state], number)
        yield trials
        text = "Complete and pruned trials that the study is to have in the end."
        wanted = GaugeMetricFamily("tuner_study_trials_wanted", text, labels=["study"])
        wanted.add_metric([self._study], count.total)
        yield wanted

    def _collect_trial(self) -> Iterator[Metric]:
        trial = self._trial
        if trial is None:
            return
        claim = trial.claim
        known = {"number": claim.number, "epoch": trial.epoch, "epochs": claim.config.epochs}
        for name, value in (known | trial.measured).items():
            yield GaugeMetricFamily(f"tuner_trial_{name}", TRIAL[name], value=value)


def _collect_worker(membership: Membership, study: str) -> Iterator[Metric]:
    vitals = membership.vitals()
    text = "Attempts at the database that failed for a passing reason and were made again."
    yield CounterMetricFamily("tuner_database_retries", text, value=vitals.retries)
    text = "Renewals of this worker's leases, by what came of them."
    renewals = CounterMetricFamily("tuner_lease_renewals", text, labels=["outcome"])
    for outcome, number in vitals.renewals.items():
        renewals.add_metric([outcome], number)
    yield renewals
    if vitals.last_beat is not None:
        text = "When the database last took this worker's sign of life."
        yield GaugeMetricFamily("tuner_heartbeat_timestamp_seconds", text, value=vitals.last_beat)
    text = "What the worker runs with, and on."
    yield InfoMetricFamily("tuner_build", text, value=membership.machine)
    text = "Which worker this is, as the study's table of workers calls it, and of which study."
    value = {"study": study, "worker": membership.worker}
    yield InfoMetricFamily("tuner_worker", text, value=value)


# Serving


@contextmanager
def monitored(
    view: Listener, store: StudyStore, host: str, port: int
) -> Iterator[tuple[Listener, Callable[[Membership], None]]]:
    """Serve a worker's metrics at ``http://host:port/metrics`` meanwhile: the observer it is to
    tell, and what it is to tell of its membership. Port 0 is any that is free. InputError where
    the port can't be had."""
    monitor = Monitor(view, store)
    server = web.server(host, port, make_wsgi_app(monitor.registry), OPTIONS)
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        view.announce(f"metrics: {web.address(host, server.server_port)}metrics")
        yield monitor, monitor.watch
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ports(host: str, first: int, count: int) -> list[int]:
    """For each of so many workers a port: ``first`` and those that follow, or any that is free
    where it is 0. InputError where one can't be had."""
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
