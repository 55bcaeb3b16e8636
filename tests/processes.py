"""Tiny studies of real digits, and ``tuner`` commands as processes on simulated machines."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from forked import Forked

Tuner = Callable[..., subprocess.CompletedProcess[str]]

DEADLINE = 120.0  # seconds; most waits take a few, but longer on a busy machine

STUDY = """
[study]
trials = 4
epochs = 3

[data]
source = "idx"
path = "{digits}"

[trial]
width = 2
latent_dim = 8
learning_rate = {{ low = 1e-4, high = 1e-2, log = true }}
batch_size = [32, 64]

[[baseline]]
learning_rate = 2e-4
batch_size = 64

[sampler]
name = "tpe"
n_startup_trials = 2

[pruner]
name = "successive_halving"
reduction_factor = 2

[guard]
variance_ratio = {{ enabled = false }}

[metrics]
samples = 300
"""

# One program, no pruner and no guard that could end a trial early. With five batches an epoch,
# trials of any length train by the same program, which is not unrolled.
UNPRUNED_STUDY = """
[study]
trials = {trials}
epochs = {epochs}
lease_seconds = {lease}
checkpoint_seconds = 0
max_takeovers = {takeovers}

[data]
source = "idx"
path = "{digits}"

[trial]
width = 2
latent_dim = 8
batch_size = 70
learning_rate = {{ low = 1e-5, high = 1e-4, log = true }}
{trial}

[sampler]
name = "random"

[pruner]
name = "none"

[guard]
loss_ratio = {{ enabled = false }}
variance_ratio = {{ enabled = false }}

[metrics]
features = "random"
samples = 300
"""
ENDLESS = 5000  # epochs: the trial runs until the test ends it
UNPRUNED_IMAGES = 350  # that such a trial trains on in an epoch of 384 digits


def unpruned_study(
    digits: Path,
    trials: int = 2,
    epochs: int = ENDLESS,
    lease: float = 2,
    takeovers: int = 3,
    trial: str = "",
) -> str:
    """A study file whose trials end only after their last epoch or by request. ``trial`` holds
    further lines of its table [trial]."""
    return UNPRUNED_STUDY.format(**locals())


def write_example(folder: Path, page: str, module: str, digits: Path, more: str = "") -> Path:
    """Write the example of a page of docs/: a study file next to its package. ``more`` are further
    lines of its section [data]."""
    text = (Path(__file__).parents[1] / "docs" / page).read_text()
    blocks = dict(re.findall(r"```(python|toml)\n(.*?)```", text, re.DOTALL))
    (folder / "mypackage").mkdir()
    (folder / "mypackage" / "__init__.py").write_text("")
    (folder / "mypackage" / f"{module}.py").write_text(blocks["python"])
    data = f'[data]\nsource = "idx"\npath = "{digits}"\n{more}'
    (folder / "own.toml").write_text(blocks["toml"] + data)
    return folder


def run(
    folder: Path, environment: dict[str, str], *words: str, answer: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command to completion, with ``answer`` on its standard input."""
    with Running(folder, environment, *words, answer=answer) as running:
        code = running.wait(within=200)
        return subprocess.CompletedProcess(words, code, running.text, running.errors)


def run_json(folder: Path, environment: dict[str, str], *words: str) -> Any:
    """Run a command with ``--json``, which must succeed; its parsed output."""
    done = run(folder, environment, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "tuner.cli", *words]


class Running:
    """A command in the background. All its output is kept."""

    def __init__(
        self,
        folder: Path,
        environment: dict[str, str],
        *words: str,
        under: Sequence[str] = (),
        answer: str = "",
    ) -> None:
        """``under`` is a wrapper that executes the command: ``faketime -f +7h``, say."""
        self._words = words
        self._popen: subprocess.Popen[str] | Forked
        if under:
            self._popen = subprocess.Popen(
                [*under, *command(*words)],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        else:
            self._popen = Forked(words, folder, environment)
        assert self._popen.stdin is not None
        with suppress(BrokenPipeError), self._popen.stdin as stdin:
            stdin.write(answer)
        self.pid = self._popen.pid
        self._out: list[str] = []
        self._err: list[str] = []
        self._seen = 0  # lines
        pairs = (self._popen.stdout, self._out), (self._popen.stderr, self._err)
        self._readers = [
            threading.Thread(target=_read, args=(pipe, lines), daemon=True) for pipe, lines in pairs
        ]
        for reader in self._readers:
            reader.start()

    @property
    def text(self) -> str:
        return "".join(self._out)

    @property
    def errors(self) -> str:
        return "".join(self._err)

    def wait_for(self, pattern: str, within: float = DEADLINE) -> re.Match[str]:
        """Wait for a line that matches, after those matched by earlier calls."""
        deadline = time.monotonic() + within
        while True:
            alive = any(reader.is_alive() for reader in self._readers)
            for i in range(self._seen, len(self._out)):
                if found := re.search(pattern, self._out[i]):
                    self._seen = i + 1
                    return found
            assert alive, f"exited without printing {pattern!r}: {self}"
            assert time.monotonic() < deadline, f"did not print {pattern!r} in time: {self}"
            time.sleep(0.01)

    def signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def wait(self, within: float = DEADLINE) -> int:
        """Wait for the exit code."""
        try:
            code = self._popen.wait(timeout=within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not exit in time: {self}") from None
        for reader in self._readers:
            reader.join(timeout=5)
        return code

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self._popen.kill()
        self.wait()

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def __str__(self) -> str:
        lines = [*self._out[:10], "...\n", *self._out[10:][-20:], *self._err]
        return " ".join(self._words) + "\n" + "".join(lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.alive:
            self.kill()
        for pipe in (self._popen.stdout, self._popen.stderr):
            assert pipe is not None
            pipe.close()


def _read(pipe: Iterator[str], lines: list[str]) -> None:
    for line in pipe:
        lines += [line]


class Machine:
    """A simulated machine: commands run under its own name, folder and home."""

    def __init__(self, folder: Path, environment: dict[str, str], **variables: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        own = {"TUNER_MACHINE": folder.name, "HOME": str(folder)}
        self.environment = environment | own | variables
        self._running = ExitStack()

    def run(self, *words: str, answer: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command to completion, with ``answer`` on its standard input."""
        return run(self.folder, self.environment, *words, answer=answer)

    def fails_with(self, code: int, *words: str, answer: str = "") -> str:
        """Run a command that must fail with ``code``; its one line on stderr."""
        done = self.run(*words, answer=answer)
        assert done.returncode == code, (words, done.stdout, done.stderr)
        lines = done.stderr.splitlines()
        assert len(lines) == 1, (words, done.stderr)
        assert lines[0].startswith("tuner: "), (words, done.stderr)
        return lines[0]

    def succeeds(self, *words: str) -> str:
        """Run a command that must succeed without errors; its stdout."""
        done = self.run(*words)
        assert (done.returncode, done.stderr) == (0, ""), (words, done.stderr)
        return done.stdout

    def start(self, *words: str, under: Sequence[str] = ()) -> Running:
        """Start a command in the background; ``switch_off`` kills it."""
        running = Running(self.folder, self.environment, *words, under=under)
        return self._running.enter_context(running)

    def switch_off(self) -> None:
        self._running.close()


@contextmanager
def machines(folder: Path, environment: dict[str, str], *names: str) -> Iterator[list[Machine]]:
    """Simulated machines that share only what their commands name."""
    made = [Machine(folder / name, environment) for name in names]
    try:
        yield made
    finally:
        for machine in made:
            machine.switch_off()


def wait_until(condition: Callable[[], object], what: str, within: float = DEADLINE) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] not in "ZX"


def children(pid: int) -> list[int]:
    """The child processes of ``pid``, oldest first."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            stat = Path(f"/proc/{entry}/stat").read_text()
        except OSError:
            continue
        if entry.isdigit() and int(stat.rpartition(")")[2].split()[1]) == pid:
            found.append(int(entry))
    return sorted(found)
