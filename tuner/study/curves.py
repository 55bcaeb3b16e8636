"""Recorded learning curves, and how well early values predict the final ranking of trials."""

from collections.abc import Sequence
from typing import NamedTuple

from tuner.study.records import TrialRecord

MIN_TRIALS = 3  # trials; two always correlate perfectly, one way or the other


class Curve(NamedTuple):
    """A recorded trial: the values that Optuna got, and the seconds of training and evaluating.

    Both are by epoch; an epoch that was not measured has no value.
    """

    trial: int
    state: str  # RUNNING, PAUSED, COMPLETE, PRUNED, FAIL
    values: dict[int, float]
    seconds: dict[int, float]

    @property
    def whole(self) -> bool:
        """Whether it reaches the last epoch."""
        return self.state == "COMPLETE" and bool(self.values)

    @property
    def final(self) -> float:
        """The last value: the trial's, unless it is pruned earlier."""
        return self.values[max(self.values)]


class Correlation(NamedTuple):
    """How well the values after ``epoch`` rank ``trials`` whole trials; 1 is the final order.

    None for fewer than three trials, or if all values are the same.
    """

    epoch: int
    trials: int
    spearman: float | None  # rho
    kendall: float | None  # tau-b


def curves_of(trials: Sequence[TrialRecord], objective: str, keeps_best: bool) -> list[Curve]:
    """The learning curves of ``trials``: the ``objective`` or its best so far (``keeps_best``)."""
    curves = []
    for trial in trials:
        history = trial.history
        values = history.best_so_far(objective) if keeps_best else dict(history.measured(objective))
        seconds = {report.epoch: report.seconds for report in history}
        curves.append(Curve(trial.number, trial.state, values, seconds))
    return curves


def winner_of(curves: Sequence[Curve]) -> Curve | None:
    """The whole curve with the lowest final value, if there is one."""
    whole = [curve for curve in curves if curve.whole]
    return min(whole, key=lambda curve: (curve.final, curve.trial), default=None)


def rank_correlations(curves: Sequence[Curve]) -> list[Correlation]:
    """Correlate each epoch's values with the final ones, over the whole curves."""
    whole = [curve for curve in curves if curve.whole]
    return [_correlation(whole, e) for e in sorted({e for curve in whole for e in curve.values})]


def _correlation(whole: Sequence[Curve], epoch: int) -> Correlation:
    from scipy import stats  # takes as long to import as the whole command line

    pairs = [(curve.values[epoch], curve.final) for curve in whole if epoch in curve.values]
    if len(pairs) < MIN_TRIALS or any(len(set(side)) == 1 for side in zip(*pairs, strict=True)):
        return Correlation(epoch, len(pairs), None, None)
    now, final = zip(*pairs, strict=True)
    rho, tau = stats.spearmanr(now, final).statistic, stats.kendalltau(now, final).statistic
    return Correlation(epoch, len(pairs), float(rho), float(tau))
