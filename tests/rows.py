"""The rows of a study, read by plain SQL rather than by the code under test."""

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import sqlalchemy
from sqlalchemy import Row, text

EPOCHS = """
SELECT trials.number, epoch, worker, token, fid, d_loss, g_loss, loss_ratio, d_auc, variance_ratio,
       finite, steps, images
FROM tuner_epochs JOIN trials ON trials.trial_id = tuner_epochs.trial_id
ORDER BY trials.number, epoch
"""
LEASES = """
SELECT trials.number, trials.state, status, worker, token, epoch, takeovers
FROM tuner_leases JOIN trials ON trials.trial_id = tuner_leases.trial_id
ORDER BY trials.number
"""
STEPS = """
SELECT trials.number, step FROM trial_intermediate_values
JOIN trials ON trials.trial_id = trial_intermediate_values.trial_id ORDER BY trials.number, step
"""
REASONS = """
SELECT trials.number, value_json FROM trial_user_attributes
JOIN trials ON trials.trial_id = trial_user_attributes.trial_id WHERE key = 'tuner:reason'
"""
REQUEST_PRUNE = "UPDATE tuner_leases SET prune_reason = 'seen enough' WHERE trial_id IN "
ENDED = ("COMPLETE", "PRUNED")


class Lease(NamedTuple):
    """A trial's state and its lease."""

    state: str  # Optuna's
    status: str
    worker: str | None
    token: int
    epoch: int
    takeovers: int


class Rows:
    """The rows of a database with one study."""

    def __init__(self, url: str) -> None:
        url = url.replace("postgresql:", "postgresql+psycopg:")
        self._engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)

    def read(self, statement: str) -> Sequence[Row[Any]]:
        with self._engine.connect() as connection:
            return connection.execute(text(statement)).all()

    def snapshot(self, *statements: str) -> list[Sequence[Row[Any]]]:
        """Run queries in one consistent snapshot, since workers keep writing."""
        sqlite = self._engine.dialect.name == "sqlite"
        with self._engine.connect() as connection:
            connection.exec_driver_sql(
                "BEGIN" if sqlite else "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"
            )
            return [connection.execute(text(statement)).all() for statement in statements]

    def write(self, statement: str) -> None:
        with self._engine.begin() as connection:
            connection.execute(text(statement))

    def leases(self) -> dict[int, Lease]:
        """Leases by trial number."""
        return {row.number: Lease(*tuple(row)[1:]) for row in self.read(LEASES)}

    def owners(self) -> dict[int, str]:
        """The worker of each held trial."""
        held = {n: lease for n, lease in self.leases().items() if lease.status == "held"}
        return {number: str(lease.worker) for number, lease in held.items()}

    def lease_expired(self, number: int) -> bool:
        """Whether a trial's lease has expired and can be claimed. A process suspended within a
        transaction keeps its row locked until Postgres ends the idle session."""
        condition = f"trial_id = (SELECT trial_id FROM trials WHERE number = {number})"
        locking = "" if self._engine.dialect.name == "sqlite" else "FOR UPDATE SKIP LOCKED"
        found = self.read(f"SELECT expires_at FROM tuner_leases WHERE {condition} {locking}")
        return any(row.expires_at < time.time() for row in found)

    def epochs(self, number: int) -> list[tuple[Any, ...]]:
        """A trial's reports without worker, token and timings."""
        own = [row for row in self.read(EPOCHS) if row.number == number]
        return [(row.epoch, *tuple(row)[4:]) for row in own]

    def ownership_history(self, number: int) -> list[tuple[int, str]]:
        """The tokens and workers that reported a trial's epochs, in order, each once."""
        pairs = [(row.token, row.worker) for row in self.read(EPOCHS) if row.number == number]
        return list(dict.fromkeys(pairs))

    def longest_gap(self, number: int) -> float:
        """The longest time between two reports of a trial, in seconds."""
        condition = f"trial_id = (SELECT trial_id FROM trials WHERE number = {number})"
        found = self.read(f"SELECT reported_at FROM tuner_epochs WHERE {condition} ORDER BY epoch")
        times = [row.reported_at for row in found]
        return float(max(b - a for a, b in pairwise(times)))

    def reasons(self) -> dict[int, str]:
        """Why trials ended, as JSON, by trial number."""
        return {row.number: row.value_json for row in self.read(REASONS)}

    def request_prune(self, *numbers: int) -> None:
        """Request that these running trials, by default all, be pruned at their next epoch."""
        chosen = f"AND number IN ({', '.join(map(str, numbers))})" if numbers else ""
        self.write(
            f"{REQUEST_PRUNE} (SELECT trial_id FROM trials WHERE state = 'RUNNING' {chosen})"
        )

    def assert_consistent(self) -> None:
        """Check that both tables hold every epoch once, in order, with one worker per token."""
        epochs, steps, leases = self.snapshot(EPOCHS, STEPS, LEASES)
        assert [(row.number, row.epoch) for row in epochs] == [
            (row.number, row.step) for row in steps
        ]
        for lease in leases:
            own = [row for row in epochs if row.number == lease.number]
            assert [row.epoch for row in own] == [*range(1, lease.epoch + 1)], lease
            tokens = [row.token for row in own]
            assert tokens == sorted(tokens), lease
            pairs = {(row.token, row.worker) for row in own}
            assert len(pairs) == len(set(tokens)), lease
            assert max(tokens, default=0) <= lease.token

    def assert_finished(self, total: int) -> None:
        """Check that exactly ``total`` trials have ended and no lease is held."""
        self.assert_consistent()
        leases = self.leases().values()
        assert sum(lease.state in ENDED for lease in leases) == total
        assert {lease.status for lease in leases} == {"done"}
