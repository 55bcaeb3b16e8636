"""docs/operations.md, tried: its roles, a backup that is restored; and where passwords show up."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from postgres import BINARIES, PASSWORD, Postgres
from processes import Machine, children, machines, steady
from rows import Rows

DOCS = Path(__file__).parents[2] / "docs/operations.md"
ROLES = re.compile(r"<!-- roles -->\n```sql\n(.*?)```", re.DOTALL)
QUOTED = "p4ss%2Fw%7Bo%7Drd%2540"


class Site:
    """A database with the roles of the documentation, and a study that its owner made."""

    def __init__(self, postgres: Postgres, desk: Machine, digits: Path) -> None:
        self.postgres, self.desk = postgres, desk
        [statements] = ROLES.findall(DOCS.read_text())
        file = desk.folder / "roles.sql"
        file.write_text(re.sub(r"'change-me-\d'", f"'{PASSWORD}'", statements))
        self.tool("psql", "postgres", "-v", "ON_ERROR_STOP=1", "-f", str(file))
        file.unlink()
        (desk.folder / "s.toml").write_text(steady(digits, trials=2))
        self.printed = [self.act_as("owner").does("create", "s.toml")]
        self.listed: list[str] = []  # command lines
        self.rows = Rows(postgres.url("tuner"))

    def act_as(self, role: str) -> Machine:
        self.desk.environment["TUNER_STORAGE"] = self.url(role)
        return self.desk

    def url(self, role: str) -> str:
        return self.postgres.url("tuner", user=f"tuner_{role}")

    def tool(self, program: str, database: str, *words: str) -> str:
        """Run a program of Postgres as the superuser."""
        path = Path(os.environ.get("POSTGRES_BINARIES", BINARIES)) / program
        done = subprocess.run(
            [path, f"--dbname={self.postgres.url(database)}", *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory,
    environment: dict[str, str],
    postgres: Postgres,
    digits: Path,
) -> Iterator[Site]:
    with machines(tmp_path_factory.mktemp("site"), environment, "desk") as [desk]:
        yield Site(postgres, desk, digits)


def test_a_worker_s_role_runs_and_steers_and_a_backup_goes_on_elsewhere(site: Site) -> None:
    worker = site.act_as("worker").start("worker", "s")
    worker.says("trial 0 epoch 1/")
    site.rows.end()
    worker.says("trial 0 pruned: seen enough")
    worker.says("trial 1 epoch 2/")
    dump = site.desk.folder / "studies.dump"
    site.tool("pg_dump", "tuner", "--format=custom", f"--file={dump}")
    worker.says("trial 1 epoch")
    site.printed.append(site.desk.does("stop", "s"))
    assert worker.ends() == 0, worker
    assert site.rows.leases()[1].status == "free"

    url = site.postgres.new_database()
    site.tool("pg_restore", url.rpartition("/")[2], "--no-owner", str(dump))
    copy = Rows(url)
    lease = copy.leases()[1]
    assert (lease.status, lease.token) == ("held", 1)
    site.desk.environment["TUNER_STORAGE"] = url
    sweep = site.desk.start("sweep", "s.toml", "--workers", "2")
    sweep.says(f"trial 1 goes on after epoch {lease.epoch}")
    sweep.says(f"trial 1 epoch {lease.epoch + 1}/")
    site.listed = [Path(f"/proc/{pid}/cmdline").read_text() for pid in children(sweep.pid)]
    copy.end()
    assert sweep.ends() == 0, sweep
    copy.assert_ended(total=2)
    assert site.rows.leases()[1].status == "free"  # nothing of that is in the original
    assert worker.errors == sweep.errors == ""
    site.printed += [worker.text, sweep.text]


def test_a_worker_s_role_neither_deletes_nor_changes_tables(site: Site) -> None:
    desk = site.act_as("worker")
    for words in (("delete", "s", "--yes"), ("create", "s.toml", "--name", "another")):
        assert "permission denied" in desk.refuses(3, *words)
    assert "another" not in desk.does("list")
    for statement in ("DROP TABLE tuner_leases", "DELETE FROM studies", "CREATE TABLE x (y int)"):
        with psycopg.connect(site.url("worker")) as connection:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
            connection.rollback()
    assert len(site.rows.leases()) == 2
    assert list(site.desk.folder.glob("tuner-data/artifacts/s-*/token"))


def test_a_reader_s_role_looks_and_nothing_else(site: Site) -> None:
    desk = site.act_as("reader")
    for words in (("list",), ("status", "s"), ("trials", "s"), ("export", "s")):
        assert "pruned" in desk.does(*words).lower()
    for words in (("worker", "s"), ("stop", "s")):
        assert "permission denied" in desk.refuses(3, *words)


def test_a_password_from_the_environment_is_not_in_the_list_of_processes(site: Site) -> None:
    assert len(site.listed) == 2
    assert not any(secret in line for line in site.listed for secret in (PASSWORD, QUOTED))


def test_passwords_are_neither_printed_nor_kept(site: Site) -> None:
    """With everything that the tests before this one printed and kept."""
    desk = site.act_as("owner")
    plain = site.url("owner")
    apart = f"{plain.replace(f':{QUOTED}', '')}?password={QUOTED}"
    for url in (plain, apart):
        words = ("sweep", "s.toml", "--max-time", "1s", "--storage", url)
        site.printed.append(desk.does(*words))
        assert "to go on: tuner sweep s.toml" in site.printed[-1]
    site.printed += [desk.does("status", "s"), site.tool("pg_dump", "tuner")]
    kept = [path for path in desk.folder.rglob("*") if path.is_file()]
    assert any(path.name == "token" for path in kept)
    for secret in (PASSWORD, QUOTED):
        for text in site.printed:
            assert secret not in text
        for path in kept:
            assert secret.encode() not in path.read_bytes(), path
