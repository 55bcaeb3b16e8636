"""What a worker shows to Prometheus of the trials that it hears of."""

from typing import Any

import pytest
import workplace
from builders import PREMISES, RANGES, epoch, spec_of
from workplace import Studies

from tuner.run.monitoring import Monitor, ports
from tuner.study.membership import Claim
from tuner.study.space import trial_config
from tuner.study.verdict import Complete, Fail, Prune
from tuner.trial import EpochReport

sqlite = workplace.sqlite


class View:
    """An observer that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def trial_started(self, *about: Any) -> None:
        self.told.append(("started", *about))

    def epoch_done(self, *about: Any) -> None:
        self.told.append(("epoch", *about))

    def trial_ended(self, *about: Any) -> None:
        self.told.append(("ended", *about))

    def trial_left(self, *about: Any) -> None:
        self.told.append(("left", *about))

    def announce(self, *about: Any) -> None:
        self.told.append(("announced", *about))


def claim(number: int, *history: EpochReport) -> Claim:
    point = {"learning_rate": 1e-3, "beta1": 0.5}
    config = trial_config(spec_of(RANGES), point, number, PREMISES)
    return Claim(number + 1, number, point, config, 1, history)


def shown(monitor: Monitor, prefix: str) -> dict[str, float]:
    """What is scraped by these names, with the values of labels behind them."""
    samples = [sample for family in monitor.registry.collect() for sample in family.samples]
    named = {" ".join([s.name, *s.labels.values()]): s.value for s in samples}
    mine = {name: value for name, value in named.items() if name.startswith(prefix)}
    return {k.removeprefix(prefix): v for k, v in mine.items() if "_created" not in k}


@pytest.fixture
def view() -> View:
    return View()


@pytest.fixture
def monitor(sqlite: Studies, view: View) -> Monitor:
    return Monitor(view, sqlite.make())


def test_all_that_is_heard_is_passed_on(monitor: Monitor, view: View) -> None:
    trial, report, end = claim(0), epoch(1), Complete()
    monitor.announce("loading", 0.5)
    monitor.trial_started(trial)
    monitor.epoch_done(trial, report)
    monitor.trial_ended(trial, end)
    monitor.trial_left(trial, "why")
    assert view.told == [
        ("announced", "loading", 0.5),
        ("started", trial),
        ("epoch", trial, report),
        ("ended", trial, end),
        ("left", trial, "why"),
    ]


def test_only_the_trial_in_training_is_shown(monitor: Monitor) -> None:
    assert shown(monitor, "tuner_trial_") == {}
    monitor.trial_started(claim(3))
    begun = {"number": 3, "epoch": 0, "epochs": 20}
    assert shown(monitor, "tuner_trial_") == begun
    monitor.epoch_done(claim(3), epoch(1, 70.5))
    assert shown(monitor, "tuner_trial_") == begun | {
        "epoch": 1,
        "objective": 70.5,
        "fid": 70.5,
        "loss_ratio": 1.5,
        "discriminator_auc": 0.75,
        "images_per_second": 16_000,
    }
    monitor.trial_ended(claim(3), Complete())
    assert shown(monitor, "tuner_trial_") == {}
    monitor.trial_started(claim(4))
    assert shown(monitor, "tuner_trial_") == begun | {"number": 4}  # nothing of the other one
    monitor.trial_left(claim(4), "left for later")
    assert shown(monitor, "tuner_trial_") == {}


def test_what_an_epoch_did_not_measure_is_as_it_was_and_what_none_did_is_absent(
    monitor: Monitor,
) -> None:
    """A loss without a scale of its own, evaluated every other epoch."""
    monitor.trial_started(claim(0))
    monitor.epoch_done(claim(0), epoch(1, None, d_auc=None, loss_ratio=None))
    assert set(shown(monitor, "tuner_trial_")) == {
        *("number", "epoch", "epochs", "images_per_second")
    }
    monitor.epoch_done(claim(0), epoch(2, 60.0, d_auc=0.9, loss_ratio=None))
    monitor.epoch_done(claim(0), epoch(3, None, d_auc=None, loss_ratio=None))
    found = shown(monitor, "tuner_trial_")
    assert (found["epoch"], found["fid"], found["discriminator_auc"]) == (3, 60.0, 0.9)
    assert "loss_ratio" not in found


def test_the_objective_is_the_study_s(sqlite: Studies, view: View) -> None:
    toml = f"{workplace.RANDOM}\n[metrics]\nobjective = 'kid'\n"
    monitor = Monitor(view, sqlite.make(toml))
    monitor.trial_started(claim(0))
    monitor.epoch_done(claim(0), epoch(1, 60.0, kid=0.25))
    found = shown(monitor, "tuner_trial_")
    assert (found["objective"], found["fid"]) == (0.25, 60.0)


def test_a_trial_that_goes_on_begins_with_what_was_reported_and_counts_anew(
    monitor: Monitor,
) -> None:
    trial = claim(0, epoch(1, 80.0), epoch(2, 70.0))
    monitor.trial_started(trial)
    found = shown(monitor, "tuner_trial_")
    assert (found["epoch"], found["fid"]) == (2, 70.0)
    assert shown(monitor, "tuner_epochs_") == {"total": 0}
    monitor.epoch_done(trial, epoch(3, 60.0))
    assert shown(monitor, "tuner_epochs_") == {"total": 1}
    assert shown(monitor, "tuner_images_") == {"total": 64_000}  # of that epoch alone
    assert shown(monitor, "tuner_train_") == {"seconds_total": 4}
    assert shown(monitor, "tuner_evaluate_") == {"seconds_total": 1}


def test_ends_are_told_apart(monitor: Monitor) -> None:
    none = {"complete": 0, "pruned": 0, "fail": 0, "left": 0}
    name = "tuner_trials_ended_total "
    assert shown(monitor, name) == none
    for end in (Complete(), Prune("bad"), Prune("worse"), Fail("broken")):
        monitor.trial_ended(claim(0), end)
    monitor.trial_left(claim(0), "left for later")
    assert shown(monitor, name) == {"complete": 1, "pruned": 2, "fail": 1, "left": 1}


def test_what_is_not_known_before_it_joins_is_absent(sqlite: Studies, view: View) -> None:
    monitor = Monitor(view, sqlite.make())
    assert not any(
        shown(monitor, f"tuner_{name}") for name in ("worker", "build", "lease", "heart")
    )
    member = sqlite.join()
    monitor.watch(member)
    worker = shown(monitor, "tuner_worker_info ")
    assert worker in ({f"s {member.worker}": 1}, {f"{member.worker} s": 1})
    before = shown(monitor, "tuner_database_transaction_seconds_count")[""]
    workplace.claim(member)
    assert shown(monitor, "tuner_database_transaction_seconds_count")[""] > before


def test_two_workers_of_a_process_share_nothing(sqlite: Studies, view: View) -> None:
    store = sqlite.make()
    one, other = Monitor(view, store), Monitor(view, store)
    one.epoch_done(claim(0), epoch(1))
    assert shown(one, "tuner_epochs_") == {"total": 1}
    assert shown(other, "tuner_epochs_") == {"total": 0}


def test_any_free_port_is_one_for_each() -> None:
    assert ports("127.0.0.1", 0, 3) == [0, 0, 0]
