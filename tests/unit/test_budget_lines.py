"""A study's budget as text: what is spent, what is left, and how to continue."""

import pytest
from builders import spec_of

from tuner.spec.budget import BudgetSection
from tuner.study.budget import Budget, Spent, Unfinished, exhausted
from tuner.views.budgets import budget_line, budget_plan, budget_values, end_line

ALL = BudgetSection(device_hours=8, epochs=1200, wall_hours=24)


@pytest.mark.parametrize(
    ("spent", "reason"),
    [
        (Spent(7.9, 1199, 23.9), None),
        (Spent(8.0, 0, 0), "budget.device_hours: workers have spent all 8 h on trials"),
        (Spent(0, 1201, 0), "budget.epochs: all 1200 epochs are trained"),
        (Spent(0, 0, 24), "budget.wall_hours: the first worker joined at least 24 h ago"),
    ],
)
def test_a_budget_is_exhausted_once_a_limit_is_reached(spent: Spent, reason: str | None) -> None:
    assert exhausted(ALL, spent) == reason
    assert exhausted(BudgetSection(), spent) is None


# Ten trials took 2 hours and 100 epochs; running ones 0.5 hours and 20 epochs so far.
HALFWAY = Budget(ALL, Spent(2.5, 120, 1.0), 10, Spent(2.0, 100))


@pytest.mark.parametrize(
    ("limits", "workers", "trials"),
    [
        ({}, 1, None),
        ({"epochs": 200}, 1, 10.0),  # 80 are left, and 20 of the next trials' are trained already
        ({"device_hours": 8.0}, 1, 30.0),
        ({"wall_hours": 2.0}, 1, 7.5),  # one hour and the half of running trials
        ({"wall_hours": 2.0}, 3, 17.5),
        ({"wall_hours": 2.0}, 0, 7.5),  # as if one worker were running
        ({"wall_hours": 2.0, "device_hours": 3.0}, 3, 5.0),
        ({"epochs": 200, "device_hours": 8.0}, 3, 10.0),
        ({"epochs": 60}, 1, 0.0),
    ],
)
def test_the_trials_left_follow_from_those_so_far(
    limits: dict[str, float], workers: int, trials: float | None
) -> None:
    budget = HALFWAY._replace(section=BudgetSection.model_validate(limits))
    assert budget.trials_left(workers) == pytest.approx(trials)


def test_nothing_is_foreseen_before_the_first_trial_has_ended() -> None:
    assert Budget(ALL, Spent(2.5, 120, 1.0)).trials_left(1) is None


@pytest.mark.parametrize(
    ("budget", "left", "line"),
    [
        (HALFWAY._replace(section=BudgetSection()), 9, ""),
        (
            HALFWAY,
            200,
            "Budget: 2.5 of 8 device hours spent, 120 of 1,200 epochs trained, 1 of 24 hours "
            "passed, about 30 more trials.",
        ),
        (
            HALFWAY._replace(section=BudgetSection(epochs=135)),
            9,
            "Budget: 120 of 135 epochs trained, about 3 more trials.",
        ),
        (
            HALFWAY._replace(section=BudgetSection(epochs=130)),
            2,
            "Budget: 120 of 130 epochs trained, enough for the trials left.",
        ),
        (
            HALFWAY._replace(section=BudgetSection(epochs=120)),
            2,
            "Budget: 120 of 120 epochs trained.",
        ),
        (Budget(BudgetSection(epochs=9), Spent()), 2, "Budget: 0 of 9 epochs trained."),
    ],
)
def test_the_budget_in_one_line(budget: Budget, left: int, line: str) -> None:
    assert budget_line(budget, left, 1) == line


def test_a_spent_budget_says_what_would_have_come_next() -> None:
    budget = Budget(BudgetSection(epochs=120), Spent(3.0, 121, 1.0), 10, Spent(2.0, 100))
    line = end_line("s", budget, Unfinished(0, 2, 3, 5))
    assert line.startswith(
        "budget.epochs: all 120 epochs are trained. Unfinished trials: 2 released, 3 paused, "
        "5 not begun; to continue: "
    )
    assert line.endswith("tuner edit s budget.epochs=230")  # 221, rounded up
    hours = Budget(BudgetSection(device_hours=0.5), Spent(0.51, 3, 1.0))
    assert end_line("s", hours, Unfinished(1, 0, 0, 0)).endswith("budget.device_hours=1.1")


def test_the_budget_as_json() -> None:
    assert budget_values(Budget(BudgetSection(epochs=9), Spent(0.5, 9, 1.0)), 1) == {
        "limits": {"epochs": 9},
        "spent": {"device_hours": 0.5, "epochs": 9, "wall_hours": 1.0},
        "exhausted": "budget.epochs: all 9 epochs are trained",
        "trials_left": 0.0,
    }


def test_a_plan_says_how_many_trials_fit() -> None:
    study = "[study]\ntrials = 20\nepochs = 10\n[budget]\n"
    spec = spec_of(f"{study}epochs = 144\ndevice_hours = 0.5\nwall_hours = 2\n")
    assert budget_plan(spec, 12.0) == [
        "budget: device_hours = 0.5 allows about 15 trials of 10 epochs of the largest program",
        "budget: epochs = 144 allows about 14 trials of 10 epochs",
        "budget: wall_hours = 2 allows all 20 trials of 10 epochs of the largest program on one "
        "worker",
    ]
    small = spec_of("[study]\nepochs = 10\n[budget]\nepochs = 9\n")
    assert budget_plan(small, 12.0) == [
        "budget: epochs = 9 ends before one trial of 10 epochs is complete"
    ]
    unknown = budget_plan(spec, None)[0]
    assert unknown.endswith("the trials in it are unknown (timing takes too long)")
    assert budget_plan(spec_of("[study]\n"), None) == []
