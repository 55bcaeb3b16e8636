"""A real Slurm on this machine, in a temporary folder: munged, slurmctld and slurmd, one node."""

import os
import platform
import pwd
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from postgres import free_port
from processes import wait_until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
CPUS = 4
SETTINGS = """
ClusterName=tuner
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SchedulerParameters=bf_interval=1,sched_min_interval=0
MinJobAge=300
KillWait=30
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=spot Nodes={host} Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=urgent Nodes={host} PriorityTier=2 PreemptMode=OFF
"""


def missing() -> str | None:
    """Why no Slurm can be started here; None if one can."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    absent = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if absent:
        return f"Slurm is not installed: no {', '.join(absent)}; see Debian's slurm-wlm and munge"
    return None if os.getuid() == 0 else "slurmd starts jobs as root only"


class Slurm:
    """One node with four CPUs; jobs of the partition ``urgent`` preempt those of ``spot``."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tuner-slurm-"))
        self.environment = {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": f"{os.environ['PATH']}:/usr/sbin",
        }
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        host, user = platform.node().partition(".")[0], pwd.getpwuid(os.getuid()).pw_name
        ports = {"controller": free_port(), "daemon": free_port()}
        text = SETTINGS.format(host=host, user=user, folder=self.folder, cpus=CPUS, **ports)
        (self.folder / "slurm.conf").write_text(text)
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            self._start_munge()
            self._start("slurmctld", "-D", "-i")
            self._start("slurmd", "-D", "-N", host)
            wait_until(lambda: "idle" in self.run("sinfo", "--noheader", "--format=%t"), "a node")
        except BaseException:
            self.remove()
            raise

    def _start_munge(self) -> None:
        key, socket = self.folder / "munge.key", self.folder / "munge.socket"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        own = ["--key-file", "--pid-file", "--seed-file", "--log-file"]
        words = [f"{option}={self.folder}/munge.{option[2:5]}" for option in own]
        self._start("munged", "--foreground", "--force", f"--socket={socket}", *words)
        wait_until(socket.exists, "munged")

    def _start(self, program: str, *words: str) -> None:
        with (self.folder / f"{program}.output").open("wb") as log:
            process = subprocess.Popen(
                [program, *words],
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes.append(process)

    def run(self, *words: str) -> str:
        """A Slurm command's output; it must succeed."""
        done = subprocess.run(
            words,
            env=os.environ | self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, (words, done.stderr, self.log)
        return done.stdout

    @property
    def log(self) -> str:
        return "\n".join(p.read_text()[-2000:] for p in sorted(self.folder.glob("*.output")))

    def job(self, job: str) -> dict[str, str]:
        """The fields of ``scontrol show job``."""
        line = self.run("scontrol", "--oneliner", "show", "job", job)
        return dict(word.partition("=")[::2] for word in line.split())

    def jobs(self) -> dict[str, str]:
        """The states of all jobs that wait or run."""
        lines = self.run("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def remove(self) -> None:
        """End all jobs and daemons, and remove their files."""
        with suppress(AssertionError, subprocess.TimeoutExpired):  # the controller may be gone
            if found := self.jobs():
                self.run("scancel", "--quiet", "--signal=KILL", "--full", *found)
                self.run("scancel", "--quiet", *found)
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
