"""Worker processes that a command starts: how many, and how they run."""

from typing import Any, NamedTuple

from tuner.cli.app import out
from tuner.errors import InputError
from tuner.run.gpus import accelerators
from tuner.run.widening import MAX_PER_GPU
from tuner.study.sinks import TrialSink
from tuner.worker_command import AUTO, WorkerCommand


class Processes(NamedTuple):
    """The worker processes of a command."""

    devices: list[str]  # GPUs; empty if the workers train on the CPU
    workers: int  # number of processes; the maximum if ``widen``
    widen: bool  # begin with one on each GPU, and add more as long as the rate rises


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
    return Processes(devices, MAX_PER_GPU * each, True)


def run_processes(
    command: WorkerCommand, processes: Processes, storage: str, sink: TrialSink, **options: Any
) -> bool:
    """Run the worker processes, each with its own port for metrics; see ``Fleet``."""
    from tuner.run.fleet import Fleet

    commands = [command] * processes.workers
    if command.metrics_port is not None:
        from tuner.run.monitoring import ports

        own = ports(command.metrics_host, command.metrics_port, processes.workers)
        commands = [command._replace(metrics_port=port) for port in own]
    devices, widen = processes.devices, processes.widen
    return Fleet(commands, storage, devices, sink, widen=widen, **options).run()
