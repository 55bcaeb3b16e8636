"""Many concurrent processes on one study: the total is exact, and each trial has one worker."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import study_databases
from optuna.trial import TrialState
from study_databases import RANDOM, Studies

url, studies = study_databases.url, study_databases.studies

WORKERS, TRIALS = 8, 40
BASELINES = [round(0.1 * (i + 1), 1) for i in range(8)]

# Imports once, then forks a process for each worker, which prints the trials that it claims.
SCRIPT = """
import os, sys, time, traceback
from builders import DATASET, epoch
from tuner.study.database import Database
from tuner.study.claims import Idle
from tuner.study.session import WorkerSession
from tuner.study.store import StudyStore
from tuner.study.verdict import Complete, Fail, Prune

def show(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def work(url):
    store = StudyStore(Database(url), "s")
    with WorkerSession(store, {}, lambda text: show("announced", text)).joined() as session:
        while (claim := session.claim(DATASET)) is not Idle.ENDED:
            if claim is Idle.WAIT:
                time.sleep(0.05)
                continue
            show("claimed", claim.number, claim.token, claim.params["beta1"])
            session.report(claim, epoch(1, 50.0), [])
            ends = [Fail("a bug"), Complete(), Prune("bad"), Complete(), Complete()]
            session.finish(claim, ends[claim.number % 5])

children = []
for _ in range(int(sys.argv[2])):
    child = os.fork()
    if child == 0:
        try:
            work(sys.argv[1])
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    children.append(child)
sys.exit(sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children))
"""


def test_many_processes_share_a_study_exactly(studies: Studies) -> None:
    baselines = "".join(f"[[baseline]]\nbeta1 = {beta1}\n" for beta1 in BASELINES)
    store = studies.create(RANDOM + baselines, trials=TRIALS)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, studies.url, str(WORKERS)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line for line in lines if line[0] == "announced"] == []  # no worker had to retry
    claimed = {int(number): float(beta1) for _, number, _, beta1 in lines}
    assert len(claimed) == len(lines)
    assert {token for _, _, token, _ in lines} == {"1"}

    trials = studies.trials()
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert {trial.number: trial.params["beta1"] for trial in trials} == claimed
    states = Counter(trial.state for trial in trials)
    assert states[TrialState.COMPLETE] + states[TrialState.PRUNED] == TRIALS
    assert states[TrialState.FAIL] == sum(number % 5 == 0 for number in claimed)
    assert sum(states.values()) == TRIALS + states[TrialState.FAIL]
    assert (
        sorted(trial.params["beta1"] for trial in trials if trial.user_attrs.get("tuner:baseline"))
        == BASELINES
    )
    assert len({trial.params["learning_rate"] for trial in trials}) == len(trials)
    assert all([found.epoch for found in trial.reports] == [1] for trial in store.trials())
    assert store.remaining() == 0
    assert {lease[1] for lease in studies.leases()} == {"done"}
    assert studies.rows("SELECT count(*) FROM tuner_workers WHERE left_at > 0") == [(WORKERS,)]
