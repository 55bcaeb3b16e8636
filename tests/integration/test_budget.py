"""Budgets: what counts as spent, and what workers claim once it is."""

from typing import Any

import pytest
import study_databases
from builders import DATASET, RANGES, epoch
from command_line import call
from study_databases import EXPIRE_LEASES, RANDOM, Studies, claim, each_lost_commit, report, run

from tuner.phases import Phase
from tuner.spec.budget import BudgetSection
from tuner.study.budget import HOUR, Budget, Spent
from tuner.study.claims import Claim, Idle
from tuner.study.session import WorkerSession
from tuner.study.snapshot import StudyPoller
from tuner.study.verdict import Complete, Fail, Prune

url, studies, sqlite = study_databases.url, study_databases.studies, study_databases.sqlite

SPENT = "budget.epochs: all 3 epochs are trained"
ASHA = RANGES + "[sampler]\nname = 'random'\n[pruner]\nname = 'asha'\nreduction_factor = 2\n"


def create(studies: Studies, limit: str = "epochs = 3", toml: str = RANDOM, **study: Any) -> None:
    studies.create(f"{toml}[budget]\n{limit}\n", **study)


def edit(studies: Studies, old: str, new: str) -> None:
    """Change the stored study file."""
    studies.rows("UPDATE tuner_studies SET spec = replace(spec, :old, :new)", old=old, new=new)


def spend(session: WorkerSession, seconds: float) -> None:
    """Let the session's clock count this time as training."""
    session.clock._seconds[Phase.TRAINING] += seconds


def test_epochs_of_all_trials_and_workers_count(studies: Studies) -> None:
    create(studies)
    first = studies.join()
    run(first, [3.0], Complete())
    run(first, [3.0], Fail("a bug"))
    second = studies.join()
    claimed = claim(second)
    assert not second.is_budget_spent()
    report(second, claimed, [3.0])
    assert second.is_budget_spent()
    assert studies.messages == [f"{SPENT}: exiting"]
    assert studies.store().budget().spent.epochs == 3


@pytest.mark.parametrize("end", ["new", "queued", "left behind", "released"])
def test_nothing_is_claimed_once_the_budget_is_spent(studies: Studies, end: str) -> None:
    baseline = "[[baseline]]\nbeta1 = 0.5\n" * (2 if end == "queued" else 0)
    create(studies, toml=RANDOM + baseline)
    session, other = studies.join(), studies.join()
    claimed = claim(session)
    report(session, claimed, [3.0, 2.0, 1.0])
    if end == "left behind":
        studies.rows(EXPIRE_LEASES)
    elif end == "released":
        session.release(claimed)
    before = studies.all_rows()
    assert other.claim(DATASET) is Idle.SPENT
    assert studies.all_rows() == before


def test_a_raised_budget_goes_on_where_it_stopped(studies: Studies) -> None:
    create(studies)
    session = studies.join()
    claimed = claim(session)
    report(session, claimed, [3.0, 2.0, 1.0])
    session.release(claimed)
    assert session.claim(DATASET) is Idle.SPENT
    edit(studies, '"epochs":3', '"epochs":4')
    assert claim(studies.join()).number == claimed.number
    later = studies.join()
    taken = claim(later)
    report(later, taken, [3.0])
    assert later.is_budget_spent()


def test_paused_trials_stay_paused(studies: Studies) -> None:
    create(studies, "epochs = 2", ASHA, trials=2, epochs=5)
    session = studies.join()
    for fid in (5.0, 6.0):
        claimed = claim(session)
        session.report(claimed, epoch(1, fid), [])
        assert session.pruner_decision(claimed, 1) is not None
        session.pause(claimed, 1)
    assert session.claim(DATASET) is Idle.SPENT
    assert [lease[1] for lease in studies.leases()] == ["paused", "paused"]
    assert studies.store().unfinished() == (0, 0, 2, 0)
    edit(studies, '"epochs":2', '"epochs":3')
    assert claim(studies.join()).number == 0


def test_no_run_confirms_a_winner_beyond_the_budget(studies: Studies) -> None:
    confirm = f"{RANDOM}[confirm]\ntop = 1\nseeds = 2\n"
    create(studies, toml=confirm, trials=2, epochs=1)
    session = studies.join()
    for _ in range(3):
        run(session, [3.0], Complete())
    assert session.claim(DATASET) is Idle.SPENT
    store = studies.store()
    assert [trial.confirms for trial in store.confirmation_trials()] == [(0, 0)]
    assert store.unfinished() == (0, 0, 0, 1)


def test_a_search_without_budget_says_how_to_confirm_its_winner(
    sqlite: Studies, capsys: pytest.CaptureFixture[str]
) -> None:
    create(sqlite, trials=9, epochs=1)
    store, session = sqlite.store(), sqlite.join()
    for fid in (3.0, 4.0, 5.0):
        run(session, [fid], Complete())
    confirm = "confirm", store.name, "--top", "1", "--seeds", "2", "--storage", sqlite.url
    assert call(*confirm) == 2
    line = capsys.readouterr().err
    assert "6 of 9 trials are left, but budget.epochs: all 3 epochs are trained; to end" in line
    assert line.rstrip().endswith(f"edit {store.name} study.trials=3 budget.epochs=7")


def test_seconds_on_trials_count_across_workers(studies: Studies) -> None:
    create(studies, "device_hours = 2.0")
    lost = studies.join()
    claimed = claim(lost)
    spend(lost, 1.5 * HOUR)
    report(lost, claimed, [3.0])
    studies.rows(EXPIRE_LEASES)
    session = studies.join()
    claimed = claim(session)
    assert not session.is_budget_spent()
    spend(session, 0.6 * HOUR)
    report(session, claimed, [2.0])
    assert session.is_budget_spent()
    found = studies.store().budget()
    assert found.spent.device_hours == pytest.approx(2.1, abs=0.01)
    assert found.reason == "budget.device_hours: workers have spent all 2 h on trials"


def test_wall_hours_count_from_the_first_worker(studies: Studies) -> None:
    create(studies, "wall_hours = 2.0")
    assert studies.store().budget().spent.wall_hours == 0.0  # none has joined
    session = studies.join()
    studies.rows("UPDATE tuner_workers SET joined_at = joined_at - 7000, left_at = 1")
    assert isinstance(studies.join().claim(DATASET), Claim)
    studies.rows("UPDATE tuner_workers SET joined_at = joined_at - 300 WHERE left_at = 1")
    reason = "budget.wall_hours: the first worker joined at least 2 h ago"
    assert studies.store().budget().reason == reason
    assert session.claim(DATASET) is Idle.SPENT
    # A clock that was set back gives time, but less than none can't have passed.
    studies.rows("UPDATE tuner_workers SET joined_at = joined_at + 90000")
    assert studies.store().budget().spent.wall_hours == 0.0


def test_other_studies_do_not_count(studies: Studies) -> None:
    create(studies)
    create(studies, name="other")
    run(studies.join("other"), [3.0, 2.0, 1.0], Complete())
    assert studies.store().budget().spent == Spent()
    assert isinstance(studies.join().claim(DATASET), Claim)


def test_a_claim_whose_answer_was_lost_is_given_out_before_the_budget_ends(
    studies: Studies,
) -> None:
    """Else its lease would be held by a worker that does not know of it."""
    create(studies, trials=100)
    session, other = studies.join(), studies.join()
    spending = claim(other)
    report(other, spending, [3.0, 2.0])
    for lost_commit in each_lost_commit(session):
        with lost_commit:
            claimed = claim(session)
        session.finish(claimed, Prune("seen enough"))
    other.report(spending, epoch(3), [epoch(1), epoch(2)])
    assert session.claim(DATASET) is Idle.SPENT
    assert {lease[1] for lease in studies.leases() if lease[2] == session.worker} == {"done"}


def test_snapshots_have_the_budget_and_end_with_it(studies: Studies) -> None:
    create(studies)
    session = studies.join()
    claimed = claim(session)
    poller = StudyPoller(studies.store())
    report(session, claimed, [3.0, 2.0, 1.0])
    found = poller.snapshot()
    assert (found.budget.reason, found.ended) == (SPENT, False)  # its worker is alive
    session.release(claimed)
    session.leave_at_once()
    assert poller.snapshot().ended
    assert studies.store().unfinished() == (0, 1, 0, 2)


def test_a_damaged_study_file_has_no_budget(studies: Studies) -> None:
    create(studies)
    for damaged in ('{"budget":{"epochs":-3}}', '{"budget":3}', "[]", "not JSON"):
        studies.rows("UPDATE tuner_studies SET spec = :spec", spec=damaged)
        with studies.engine.connect() as connection:
            store_budget = read(studies, connection)
        assert store_budget.section == BudgetSection()


def read(studies: Studies, connection: Any) -> Budget:
    from tuner.study.budget import read_budget
    from tuner.study.tables import StudyKey

    [(study_id, token)] = studies.rows("SELECT study_id, token FROM tuner_studies")
    return read_budget(connection, StudyKey(study_id, token))
