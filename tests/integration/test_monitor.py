"""Prometheus metrics of a worker."""

import pytest
import study_databases
from builders import DATASET, RANGES, epoch, spec_of
from study_databases import Studies

from tuner.epoch_report import EpochReport
from tuner.run.monitoring import Monitor, ports
from tuner.study.claims import Claim
from tuner.study.sinks import Released
from tuner.study.space import trial_config
from tuner.study.verdict import Complete, Fail, Pause, Prune

sqlite = study_databases.sqlite


def claim(number: int, *history: EpochReport) -> Claim:
    point = {"learning_rate": 1e-3, "beta1": 0.5}
    config = trial_config(spec_of(RANGES), point, number, DATASET)
    return Claim(number + 1, number, point, config, 1, history)


def scraped(monitor: Monitor, prefix: str) -> dict[str, float]:
    """Samples whose names start with the prefix; label values follow the name."""
    samples = [sample for family in monitor.registry.collect() for sample in family.samples]
    named = {" ".join([s.name, *s.labels.values()]): s.value for s in samples}
    mine = {name: value for name, value in named.items() if name.startswith(prefix)}
    return {k.removeprefix(prefix): v for k, v in mine.items() if "_created" not in k}


@pytest.fixture
def monitor(sqlite: Studies) -> Monitor:
    return Monitor(sqlite.create())


def test_only_the_trial_in_training_is_shown(monitor: Monitor) -> None:
    assert scraped(monitor, "tuner_trial_") == {}
    monitor.started(claim(3))
    begun = {"number": 3, "epoch": 0, "epochs": 20}
    assert scraped(monitor, "tuner_trial_") == begun
    monitor.epoch(claim(3), epoch(1, 70.5))
    assert scraped(monitor, "tuner_trial_") == begun | {
        "epoch": 1,
        "objective": 70.5,
        "fid": 70.5,
        "loss_ratio": 1.5,
        "discriminator_auc": 0.75,
        "images_per_second": 16_000,
    }
    monitor.ended(claim(3), Complete())
    assert scraped(monitor, "tuner_trial_") == {}
    monitor.started(claim(4))
    assert scraped(monitor, "tuner_trial_") == begun | {"number": 4}  # no values of trial 3
    monitor.ended(claim(4), Released("released, to be resumed"))
    assert scraped(monitor, "tuner_trial_") == {}


def test_custom_metrics_are_labelled_by_their_names(monitor: Monitor) -> None:
    monitor.started(claim(3, epoch(1, own={"a.b:x": 0.5, "c:y": 2.0})))
    assert scraped(monitor, "tuner_trial_own ") == {"a.b:x": 0.5, "c:y": 2.0}
    monitor.epoch(claim(3), epoch(2, None))  # without an evaluation
    assert scraped(monitor, "tuner_trial_own ") == {"a.b:x": 0.5, "c:y": 2.0}


def test_unmeasured_values_keep_the_last_or_are_absent(
    monitor: Monitor,
) -> None:
    """With a loss that has no loss ratio, and an FID every other epoch."""
    monitor.started(claim(0))
    monitor.epoch(claim(0), epoch(1, None, d_auc=None, loss_ratio=None))
    assert set(scraped(monitor, "tuner_trial_")) == {
        *("number", "epoch", "epochs", "images_per_second")
    }
    monitor.epoch(claim(0), epoch(2, 60.0, d_auc=0.9, loss_ratio=None))
    monitor.epoch(claim(0), epoch(3, None, d_auc=None, loss_ratio=None))
    found = scraped(monitor, "tuner_trial_")
    assert (found["epoch"], found["fid"], found["discriminator_auc"]) == (3, 60.0, 0.9)
    assert "loss_ratio" not in found


def test_the_objective_is_the_studys(sqlite: Studies) -> None:
    toml = f"{study_databases.RANDOM}\n[metrics]\nobjective = 'kid'\n"
    monitor = Monitor(sqlite.create(toml))
    monitor.started(claim(0))
    monitor.epoch(claim(0), epoch(1, 60.0, kid=0.25))
    found = scraped(monitor, "tuner_trial_")
    assert (found["objective"], found["fid"]) == (0.25, 60.0)


def test_hold_and_budget_of_the_study(sqlite: Studies) -> None:
    monitor = Monitor(sqlite.create(f"{study_databases.RANDOM}\n[budget]\nepochs = 40\n"))
    assert scraped(monitor, "tuner_study_on_hold ") == {"s": 0}
    assert scraped(monitor, "tuner_study_budget_limit ") in ({"s epochs": 40}, {"epochs s": 40})
    assert set(scraped(monitor, "tuner_study_budget_spent ").values()) == {0}


def test_a_study_without_a_budget_has_no_metrics_of_one(monitor: Monitor) -> None:
    assert scraped(monitor, "tuner_study_budget_") == {}


def test_a_resumed_trial_starts_from_its_reports_with_new_counters(
    monitor: Monitor,
) -> None:
    trial = claim(0, epoch(1, 80.0), epoch(2, 70.0))
    monitor.started(trial)
    found = scraped(monitor, "tuner_trial_")
    assert (found["epoch"], found["fid"]) == (2, 70.0)
    assert scraped(monitor, "tuner_epochs_") == {"total": 0}
    monitor.epoch(trial, epoch(3, 60.0))
    assert scraped(monitor, "tuner_epochs_") == {"total": 1}
    assert scraped(monitor, "tuner_images_") == {"total": 64_000}  # of that epoch alone
    assert scraped(monitor, "tuner_train_") == {"seconds_total": 4}
    assert scraped(monitor, "tuner_evaluate_") == {"seconds_total": 1}


def test_trial_outcomes_are_counted_separately(monitor: Monitor) -> None:
    none = {"complete": 0, "paused": 0, "pruned": 0, "fail": 0, "left": 0}
    name = "tuner_trials_ended_total "
    assert scraped(monitor, name) == none
    for end in (Complete(), Pause("so far"), Prune("bad"), Prune("worse"), Fail("broken")):
        monitor.ended(claim(0), end)
    monitor.ended(claim(0), Released("released, to be resumed"))
    expected = {"complete": 1, "paused": 1, "pruned": 2, "fail": 1, "left": 1}
    assert scraped(monitor, name) == expected


def test_values_unknown_before_joining_are_absent(sqlite: Studies) -> None:
    monitor = Monitor(sqlite.create())
    assert not any(
        scraped(monitor, f"tuner_{name}") for name in ("worker", "build", "lease", "heart")
    )
    session = sqlite.join()
    monitor.watch(session)
    worker = scraped(monitor, "tuner_worker_info ")
    assert worker in ({f"s {session.worker}": 1}, {f"{session.worker} s": 1})
    before = scraped(monitor, "tuner_database_transaction_seconds_count")[""]
    study_databases.claim(session)
    assert scraped(monitor, "tuner_database_transaction_seconds_count")[""] > before


def test_workers_of_one_process_have_separate_metrics(sqlite: Studies) -> None:
    store = sqlite.create()
    one, other = Monitor(store), Monitor(store)
    one.epoch(claim(0), epoch(1))
    assert scraped(one, "tuner_epochs_") == {"total": 1}
    assert scraped(other, "tuner_epochs_") == {"total": 0}


def test_port_0_is_a_free_port_for_each_worker() -> None:
    assert ports("127.0.0.1", 0, 3) == [0, 0, 0]
