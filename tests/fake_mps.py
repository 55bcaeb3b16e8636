"""A stand-in for nvidia-cuda-mps-control, and for the GPUs that MPS serves.

The stand-in keeps the program's protocol: ``-d`` starts a daemon that listens on a socket in
CUDA_MPS_PIPE_DIRECTORY and writes its pid there; otherwise commands are read from standard input
and passed to the daemon. It answers get_server_list, and exits at quit.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from processes import wait_until

NAME = "nvidia-cuda-mps-control"
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
PROGRAM = f"""#!{sys.executable} -IS
import os, socket, sys, time
pipes = os.environ.get("{PIPES}", "/tmp/nvidia-mps")
logs = os.environ.get("{LOGS}", "/var/log/nvidia-mps")
server = socket.socket(socket.AF_UNIX)
if sys.argv[1:] == ["-d"]:
    if os.environ.get("FAKE_MPS_FAILS"):
        sys.exit("MPS is not supported here")
    if os.path.exists(pipes + "/control"):
        print("An instance of this daemon is already running")
        sys.exit(1)
    if os.fork():
        os._exit(0)
    os.setsid()
    time.sleep(0.2)  # it does not listen at once
    server.bind(pipes + "/control")
    server.listen()
    with open(logs + "/control.log", "w") as file:
        file.write("devices " + os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
    with open(pipes + "/pid", "w") as file:
        file.write(str(os.getpid()))
    os.rename(pipes + "/pid", pipes + "/{NAME}.pid")
    while True:
        client, _ = server.accept()
        command = client.recv(1000).decode().strip()
        client.sendall(b"ok")
        client.close()
        if command == "quit":
            os.remove(pipes + "/control")
            break
else:
    for line in sys.stdin:
        try:
            server.connect(pipes + "/control")
        except OSError:
            print("Cannot find MPS control daemon process")
            sys.exit(1)
        server.sendall(line.encode())
        server.recv(1000)
"""


def install(folder: Path) -> str:
    """Write the stand-in into a folder; returns a PATH that finds it first."""
    folder.mkdir(exist_ok=True)
    (folder / NAME).write_text(PROGRAM)
    (folder / NAME).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def daemon_of(folder: str | Path) -> int:
    """The process id of the daemon whose pipes are in a folder."""
    return int(Path(folder, f"{NAME}.pid").read_text())


@contextmanager
def running_daemon(path: str) -> Iterator[dict[str, str]]:
    """A daemon that another process has started; yields the variables that name its folders."""
    folder = tempfile.mkdtemp(prefix="mps-", dir="/tmp")
    variables = {PIPES: folder, LOGS: folder}
    environment = os.environ | variables | {"PATH": path}
    subprocess.run([NAME, "-d"], env=environment, check=True)
    wait_until(Path(folder, f"{NAME}.pid").exists, "the daemon listens")
    try:
        yield variables
    finally:
        subprocess.run([NAME], input="quit\n", text=True, env=environment, capture_output=True)
        shutil.rmtree(folder)


def install_gpu(folder: Path) -> str:
    """Write a JAX plugin for a GPU that is the CPU; returns a PYTHONPATH that finds it."""
    (folder / "jax_cuda12_plugin").mkdir(parents=True)
    (folder / "jax_cuda12_plugin" / "__init__.py").touch()
    (folder / "jax_plugins" / "fake_gpu").mkdir(parents=True)
    (folder / "jax_plugins" / "fake_gpu" / "__init__.py").write_text(
        "from jax._src import xla_bridge\n"
        "from jaxlib import xla_client\n"
        "def initialize():\n"
        "    xla_bridge.hardware_utils.has_visible_nvidia_gpu = lambda: True\n"
        "    xla_bridge.register_backend_factory(\n"
        "        'cuda', xla_client.make_cpu_client, priority=500, fail_quietly=False\n"
        "    )\n"
    )
    return ":".join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


def environment_of(pid: int) -> dict[str, str]:
    """The variables with which a process was started."""
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)
