"""docs/operations.md in practice: roles, backups and password secrecy."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from postgres import BINARIES, PASSWORD, Postgres
from processes import Machine, children, machines, unpruned_study
from rows import Rows

DOCS = Path(__file__).parents[2] / "docs/operations.md"
ROLES = re.compile(r"<!-- roles -->\n```sql\n(.*?)```", re.DOTALL)
QUOTED = "p4ss%2Fw%7Bo%7Drd%2540"


class Site:
    """A database with the documented roles and a study that its owner created."""

    def __init__(self, postgres: Postgres, desk: Machine, digits: Path) -> None:
        self.postgres, self.desk = postgres, desk
        [statements] = ROLES.findall(DOCS.read_text())
        file = desk.folder / "roles.sql"
        file.write_text(re.sub(r"'change-me-\d'", f"'{PASSWORD}'", statements))
        self.tool("psql", "postgres", "-v", "ON_ERROR_STOP=1", "-f", str(file))
        file.unlink()
        (desk.folder / "s.toml").write_text(unpruned_study(digits, trials=2))
        self.printed = [self.act_as("owner").succeeds("create", "s.toml")]
        self.command_lines: list[str] = []
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


def test_the_workers_role_suffices_and_a_backup_resumes(site: Site) -> None:
    worker = site.act_as("worker").start("worker", "s")
    worker.wait_for("trial 0 epoch 1/")
    site.rows.request_prune()
    worker.wait_for("trial 0 pruned: seen enough")
    worker.wait_for("trial 1 epoch 2/")
    dump = site.desk.folder / "studies.dump"
    site.tool("pg_dump", "tuner", "--format=custom", f"--file={dump}")
    worker.wait_for("trial 1 epoch")
    site.printed.append(site.desk.succeeds("stop", "s"))
    assert worker.wait() == 0, worker
    assert site.rows.leases()[1].status == "free"

    url = site.postgres.new_database()
    site.tool("pg_restore", url.rpartition("/")[2], "--no-owner", str(dump))
    copy = Rows(url)
    lease = copy.leases()[1]
    assert (lease.status, lease.token) == ("held", 1)
    site.desk.environment["TUNER_STORAGE"] = url
    sweep = site.desk.start("sweep", "s.toml", "--workers", "2")
    sweep.wait_for(f"trial 1 continues after epoch {lease.epoch}")
    sweep.wait_for(f"trial 1 epoch {lease.epoch + 1}/")
    site.command_lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in children(sweep.pid)]
    copy.request_prune()
    assert sweep.wait() == 0, sweep
    copy.assert_finished(total=2)
    assert site.rows.leases()[1].status == "free"  # the original is unchanged
    assert worker.errors == sweep.errors == ""
    site.printed += [worker.text, sweep.text]


def test_the_workers_role_cannot_delete_or_alter_tables(site: Site) -> None:
    desk = site.act_as("worker")
    for words in (("delete", "s", "--yes"), ("create", "s.toml", "--name", "another")):
        assert "permission denied" in desk.fails_with(3, *words)
    assert "another" not in desk.succeeds("list")
    for statement in ("DROP TABLE tuner_leases", "DELETE FROM studies", "CREATE TABLE x (y int)"):
        with psycopg.connect(site.url("worker")) as connection:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
            connection.rollback()
    assert len(site.rows.leases()) == 2
    assert list(site.desk.folder.glob("tuner-data/artifacts/s-*/token"))


def test_the_readers_role_can_only_read(site: Site) -> None:
    desk = site.act_as("reader")
    for words in (("list",), ("status", "s"), ("trials", "s"), ("export", "s")):
        assert "pruned" in desk.succeeds(*words).lower()
    for words in (("worker", "s"), ("stop", "s")):
        assert "permission denied" in desk.fails_with(3, *words)


def test_the_process_list_shows_no_password(site: Site) -> None:
    assert len(site.command_lines) == 2
    assert not any(secret in line for line in site.command_lines for secret in (PASSWORD, QUOTED))


def test_passwords_are_neither_printed_nor_stored(site: Site) -> None:
    """Includes everything that the earlier tests printed and stored."""
    desk = site.act_as("owner")
    in_userinfo = site.url("owner")
    in_query = f"{in_userinfo.replace(f':{QUOTED}', '')}?password={QUOTED}"
    for url in (in_userinfo, in_query):
        words = ("sweep", "s.toml", "--max-time", "1s", "--storage", url)
        site.printed.append(desk.succeeds(*words))
        assert "to resume: tuner sweep s.toml" in site.printed[-1]
    site.printed += [desk.succeeds("status", "s"), site.tool("pg_dump", "tuner")]
    files = [path for path in desk.folder.rglob("*") if path.is_file()]
    assert any(path.name == "token" for path in files)
    for secret in (PASSWORD, QUOTED):
        for text in site.printed:
            assert secret not in text
        for path in files:
            assert secret.encode() not in path.read_bytes(), path
