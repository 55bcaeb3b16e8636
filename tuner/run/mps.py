"""CUDA MPS, which lets the kernels of several processes run on a GPU at the same time.

Without it the processes take turns: the GPU is divided into time slices.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tuner.jax_variables import START_TIMEOUT
from tuner.run.gpus import PREALLOCATE, VISIBLE

PROGRAM = "nvidia-cuda-mps-control"
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
PARENT = "/tmp"  # of the daemon's folder; not TMPDIR, since a socket's path has at most 107 bytes
TIMEOUT = 10.0  # seconds for the daemon to start, to answer or to stop
STARTED = "the workers share each GPU through CUDA MPS, which stops with this command"
FOUND = "the workers share each GPU through the CUDA MPS daemon that is running"
TIME_SLICES = "the workers share each GPU in time slices, without CUDA MPS"
# Starts the daemon, and stops it as soon as standard input closes. The other end is closed when its
# process ends, even by SIGKILL. Signals to the process group are left to the workers.
KEEPER = f"""
{PROGRAM} -d >"${LOGS}/start.log" 2>&1 </dev/null || exit 1
trap '' HUP INT TERM
read -r _
echo quit | {PROGRAM} >/dev/null 2>&1
rm -rf "$0"
"""


@contextmanager
def shared(devices: Sequence[str], announce: Callable[[str], None]) -> Iterator[dict[str, str]]:
    """Let processes share the GPUs through MPS; yields the variables that they need.

    Unless an MPS daemon answers, one is started. It is stopped at the end of the block, and also if
    this process is killed. If that fails, the GPUs are shared in time slices, and the line that is
    announced says why.
    """
    if shutil.which(PROGRAM) is None:
        announce(f"{TIME_SLICES}: {PROGRAM} is not installed")
        yield {}
    elif _answers(os.environ):
        announce(FOUND)
        yield {}
    else:
        with ExitStack() as stack:
            try:
                variables, problem = stack.enter_context(_daemon(devices))
            except OSError as error:
                variables, problem = {}, str(error)
            if problem:
                stack.close()
            announce(f"{TIME_SLICES}: {problem}" if problem else STARTED)
            yield {} if problem else variables


@contextmanager
def _daemon(devices: Sequence[str]) -> Iterator[tuple[dict[str, str], str | None]]:
    """Run a daemon for the block; yields its clients' variables, and a problem that prevents its
    use, if any."""
    folder = Path(tempfile.mkdtemp(prefix="tuner-mps-", dir=PARENT))
    variables = {PIPES: f"{folder}/pipes", LOGS: f"{folder}/logs"}
    for path in variables.values():
        os.mkdir(path)
    keeper = subprocess.Popen(
        ["sh", "-c", KEEPER, str(folder)],
        env=_daemon_environment(devices) | variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in a terminal must not end it before the workers
    )
    try:
        problem = _start_problem(keeper, os.environ | variables, folder / "logs/start.log")
        yield variables, problem or _client_problem(os.environ | variables | {VISIBLE: devices[0]})
    finally:
        assert keeper.stdin is not None
        keeper.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            keeper.wait(TIMEOUT)
            shutil.rmtree(folder, ignore_errors=True)


def _daemon_environment(devices: Sequence[str]) -> dict[str, str]:
    """The daemon sees the GPUs under the same names as its clients.

    If it received indices, it would number its GPUs from 0, and the clients' indices would denote
    other GPUs.
    """
    environment = {name: value for name, value in os.environ.items() if name != VISIBLE}
    if all(name.startswith(("GPU-", "MIG-")) for name in devices):
        environment[VISIBLE] = ",".join(devices)
    return environment


def _answers(environment: Mapping[str, str]) -> bool:
    """Whether a daemon answers at the folder that the variables name."""
    try:
        done = subprocess.run(
            [PROGRAM], input=b"get_server_list\n", env=environment, capture_output=True,
            timeout=TIMEOUT,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and b"Cannot find" not in done.stdout + done.stderr


def _start_problem(
    keeper: subprocess.Popen[bytes], environment: Mapping[str, str], log: Path
) -> str | None:
    """Wait until the daemon answers; returns why it does not, None if it does."""
    until = time.monotonic() + TIMEOUT
    while keeper.poll() is None and time.monotonic() < until:
        if _answers(environment):
            return None
        time.sleep(0.05)
    said = log.read_text(errors="replace").split("\n") if log.exists() else []
    return " ".join(filter(None, (line.strip() for line in said))) or "its daemon does not answer"


def _client_problem(environment: Mapping[str, str]) -> str | None:
    """Why JAX can't use a GPU through the daemon, and so no worker could start; None if it can."""
    command = [sys.executable, "-P", "-c", "import jax; jax.devices('cuda')"]
    try:
        tried = subprocess.run(
            command, env={**environment, PREALLOCATE: "false"}, capture_output=True,
            timeout=START_TIMEOUT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"JAX did not start within {START_TIMEOUT:g} s"
    lines = tried.stderr.decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return None if tried.returncode == 0 else f"JAX can't use a GPU through it: {last}"
