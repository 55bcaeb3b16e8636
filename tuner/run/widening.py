"""``Widening``: measures, while workers train, how many should share a GPU."""

from collections.abc import Sequence

from tuner.epoch_report import EpochReport
from tuner.study.claims import Claim
from tuner.study.sinks import Sinks

MAX_PER_GPU = 12  # workers per GPU
MIN_GAIN = 0.1  # of the rate, by one more worker per GPU
EPOCHS = 5  # of every worker in a measurement


def should_widen(rates: Sequence[float], limit: int = MAX_PER_GPU) -> bool:
    """Whether to try one more worker per GPU, given the rates with 1, 2, ... workers per GPU."""
    if len(rates) >= limit:
        return False
    return len(rates) < 2 or rates[-1] >= (1 + MIN_GAIN) * rates[-2]


class Widening:
    """Measures the rate of a group of workers, in epochs per second of all of them together.

    A measurement begins once every worker has reported an epoch, so all have compiled and begun.
    It ends when every worker has trained ``EPOCHS`` whole epochs in it. The time of an epoch is the
    reported one, without compilation: a program that is new to one worker does not distort the
    rate.
    """

    def __init__(self, workers: int) -> None:
        self.rates: list[float] = []  # with 1, 2, ... workers per GPU
        self.begin(workers)

    def begin(self, workers: int) -> None:
        """Begin the next measurement, of this number of workers."""
        self._workers = workers
        self._begun: set[int] = set()
        self._seconds: dict[int, list[float]] = {}

    def epoch(self, worker: int, seconds: float) -> None:
        """Record an epoch of a worker, reported in this moment."""
        if len(self._begun) < self._workers:
            self._begun.add(worker)
        else:
            self._seconds.setdefault(worker, []).append(seconds)

    def measured(self) -> bool:
        """Whether the measurement is complete; its rate is then the last of ``rates``."""
        # The first epoch of each worker began before the measurement did.
        whole = [seconds[1:] for seconds in self._seconds.values()]
        if len(whole) < self._workers or min(map(len, whole)) < EPOCHS:
            return False
        self.rates.append(sum(len(seconds) / sum(seconds) for seconds in whole))
        return True

    def finding(self) -> str:
        """The last measurement as text."""
        width, rate = len(self.rates), self.rates[-1]
        found = f"{width} worker{'s' * (width > 1)} per GPU: {rate:.3g} epochs/s"
        return found if width == 1 else f"{found}, {rate / self.rates[-2] - 1:+.0%}"


class EpochTimes(Sinks):
    """Passes the times of one worker's epochs to a ``Widening``."""

    def __init__(self, widening: Widening, worker: int) -> None:
        super().__init__()
        self._widening, self._worker = widening, worker

    def epoch(self, claim: Claim, report: EpochReport) -> None:
        self._widening.epoch(self._worker, report.seconds)
