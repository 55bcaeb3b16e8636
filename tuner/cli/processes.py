"""Worker processes that a command starts: how many, and their command lines."""

from typing import NamedTuple

from tuner.cli.app import out
from tuner.cli.options import AUTO
from tuner.environment import MachineOptions
from tuner.errors import InputError
from tuner.run.gpus import accelerators
from tuner.run.widening import MOST


class Processes(NamedTuple):
    """The worker processes of a command."""

    devices: list[str]  # GPUs; empty if the workers train on the CPU
    most: int  # processes
    widen: bool  # begin with one on each GPU, and add more as long as that pays


def plan_processes(workers: int | None, per_device: int | None) -> Processes:
    """Decide on processes from ``--workers`` and ``--workers-per-device``; by default one per GPU.

    InputError if both are given.
    """
    if workers is not None and per_device is not None:
        raise InputError("--workers and --workers-per-device exclude each other: leave one out")
    devices = accelerators()
    each = max(1, len(devices))
    if per_device is None:
        return Processes(devices, workers or each, False)
    if per_device != AUTO:
        return Processes(devices, per_device * each, False)
    if not devices:
        out.print("1 worker: auto is for GPUs, and this machine trains on its CPU")
        return Processes(devices, 1, False)
    return Processes(devices, MOST * each, True)


def worker_arguments(
    count: int,
    name: str,
    artifacts: str | None,
    options: MachineOptions,
    metrics: tuple[str, int | None],
    *more: str,
) -> list[list[str]]:
    """Arguments of ``tuner worker`` for each of ``count`` processes.

    ``metrics`` is the host and the first port on which they serve metrics, each on its own port.
    """
    pairs = [
        ("--artifacts", artifacts),
        ("--data", options.data),
        ("--weights", options.weights),
        *(("--allow", package) for package in options.allow),
    ]
    given = [word for key, value in pairs if value is not None for word in (key, value)]
    host, port = metrics
    if port is None:
        return [[name, *given, *more]] * count
    from tuner.run.monitoring import ports

    address = ["--metrics-host", host, "--metrics-port"]
    return [[name, *given, *more, *address, str(own)] for own in ports(host, port, count)]
