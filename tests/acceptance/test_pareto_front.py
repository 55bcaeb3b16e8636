"""A sweep of two workers with several objectives and a constraint, as a user runs it."""

from pathlib import Path
from typing import Any

import optuna
from event_files import scalars
from optuna.trial import TrialState
from processes import run, run_json

STUDY = """
[study]
trials = 8
epochs = 2

[data]
source = "idx"
path = "{digits}"

[trial]
width = [2, 4, 16]
latent_dim = 8
learning_rate = {{ low = 1e-4, high = 1e-2, log = true }}

[[baseline]]
width = 16

[constraint]
parameters = 50_000

[sampler]
name = "tpe"
n_startup_trials = 2

[pruner]
name = "none"

[guard]
loss_ratio = {{ enabled = false }}
variance_ratio = {{ enabled = false }}

[metrics]
features = "random"
samples = 300
objectives = ["fid", "recall", "parameters"]

[tracking]
to = ["tensorboard"]
"""


def test_two_workers_find_a_front_of_networks_that_are_small_enough(
    tmp_path: Path, digits: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "two.toml").write_text(STUDY.format(digits=digits))
    done = run(tmp_path, environment, "sweep", "two.toml", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "Pareto front of FID and recall and parameters: " in done.stdout
    url = f"sqlite:///{tmp_path}/tuner-data/studies.db"
    study = optuna.load_study(study_name="two", storage=url)
    trials = run_json(tmp_path, environment, "trials", "two")
    assert [trial["number"] for trial in trials] == list(range(8))
    for ours, theirs in zip(trials, study.trials, strict=True):
        check(ours, theirs)
        if theirs.state == TrialState.COMPLETE:
            [folder] = tmp_path.glob(f"runs/two-*/trial-{theirs.number:05d}")
            assert scalars(folder, "parameters") == [(2, theirs.values[2])]
    assert trials[0]["state"] == "PRUNED"
    front = run_json(tmp_path, environment, "best", "two", "--all")
    assert {t["number"] for t in front} == {t.number for t in study.best_trials}
    assert run_json(tmp_path, environment, "status", "two")["front"] == front
    best = run_json(tmp_path, environment, "best", "two")["trial"]
    assert best == front[0]
    assert best["value"] == min(t["value"] for t in trials if t["state"] == "COMPLETE")


def check(ours: dict[str, Any], theirs: optuna.trial.FrozenTrial) -> None:
    """A trial that is too large is untrained; the values of others are those of one epoch."""
    if ours["params"]["width"] == 16:
        assert (theirs.state, ours["reports"]) == (TrialState.PRUNED, [])
        assert ours["reason"].startswith("constraint.parameters: ")
        assert theirs.constraints["parameters"] > 0
        return
    assert (theirs.state, len(ours["reports"])) == (TrialState.COMPLETE, 2)
    best = min(ours["reports"], key=lambda report: report["fid"])
    weights = sum(theirs.user_attrs["tuner:parameters"])
    assert theirs.values == [best["fid"], best["recall"], weights]
    assert ours["objectives"] == dict(
        zip(["fid", "recall", "parameters"], theirs.values, strict=True)
    )
    assert theirs.constraints["parameters"] == weights / 50_000 - 1 < 0
