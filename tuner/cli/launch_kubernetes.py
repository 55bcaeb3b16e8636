"""``tuner launch kubernetes``: run workers as pods of an indexed Job."""

import shutil
import subprocess
import sys
from typing import Annotated

import typer

from tuner.cli.app import out
from tuner.cli.launch import launch
from tuner.cli.options import Allow, Artifacts, Storage, StudyName, option
from tuner.environment import STORAGE
from tuner.errors import InputError, TunerError
from tuner.launch.kubernetes import SPOT, Pods, manifests, placement, spot_platform
from tuner.launch.workers import Workers, remote_artifacts, remote_storage
from tuner.run.signals import GRACE

Count = Annotated[int, option("N", "Number of workers.", "--workers", min=1, max=10_000)]
Image = Annotated[str, option("IMAGE", "Container image with tuner, see the Dockerfile.")]
Gpu = Annotated[int, option("N", "GPUs of each worker.", min=0, max=1)]
Cpu = Annotated[str, option("CORES", "CPU cores that each worker requests.")]
Memory = Annotated[str, option("SIZE", "Memory of each worker, e.g. 16Gi.")]
OnSpot = Annotated[str | None, option("|".join(SPOT), "Run on the spot nodes of this platform.")]
NodeSelector = Annotated[
    list[str] | None, option("KEY=VALUE", "Label that nodes must have. Can be repeated.")
]
Toleration = Annotated[
    list[str] | None,
    option("KEY=VALUE:EFFECT", "Taint that the workers tolerate. Can be repeated."),
]
Namespace = Annotated[
    str | None, option("NAME", "Namespace. Default: that of kubectl's current context.")
]
PasswordFrom = Annotated[
    str, option("SECRET", "Existing Secret whose key `password` is the database's password.")
]
EnvFrom = Annotated[
    list[str] | None,
    option(
        "SECRET",
        "Existing Secret whose keys become environment variables, e.g. AWS_ACCESS_KEY_ID. "
        "Can be repeated.",
    ),
]
ServiceAccount = Annotated[
    str | None, option("NAME", "ServiceAccount, e.g. one with access to the bucket.")
]
ArtifactsClaim = Annotated[
    str | None,
    option(
        "CLAIM", "PersistentVolumeClaim with the artifact store's folder; replaces --artifacts."
    ),
]
DataClaim = Annotated[str | None, option("CLAIM", "PersistentVolumeClaim with the images.")]
Grace = Annotated[
    float | None,
    option(
        "SECONDS",
        "Seconds to let the current epoch finish when a pod is stopped. "
        "Default: 25, or what the platform's spot nodes allow.",
        min=0,
    ),
]
Render = Annotated[
    bool, typer.Option("--render", help="Print what would be submitted, without submitting it.")
]


@launch.command()
def kubernetes(
    name: StudyName,
    image: Image,
    storage: Storage = STORAGE,
    artifacts: Artifacts = None,
    workers: Count = 1,
    gpu: Gpu = 0,
    cpu: Cpu = "2",
    memory: Memory = "8Gi",
    spot: OnSpot = None,
    node_selector: NodeSelector = None,
    toleration: Toleration = None,
    namespace: Namespace = None,
    password_from: PasswordFrom = "tuner-database",
    env_from: EnvFrom = None,
    service_account: ServiceAccount = None,
    artifacts_claim: ArtifactsClaim = None,
    data_claim: DataClaim = None,
    grace: Grace = None,
    allow: Allow = None,
    render: Render = False,
) -> None:
    """Run workers as an indexed Job, with the dashboard.

    Applies the manifests with kubectl. A pod that is evicted or preempted is replaced, and does not
    count as a failure; wrong input fails the Job at once. The Job ends with the study.

    Example: tuner launch kubernetes quickstart --workers 16 --image registry/tuner:1 --render
    """
    platform = spot_platform(spot)
    if grace is None:
        grace = min(GRACE, platform.notice - 5) if platform else GRACE
    selectors, tolerations = placement(platform, node_selector or (), toleration or ())
    pods = Pods(
        image=image,
        secret=password_from,
        namespace=namespace,
        secrets=tuple(env_from or ()),
        gpu=gpu,
        cpu=cpu,
        memory=memory,
        selectors=selectors,
        tolerations=tolerations,
        artifacts=artifacts_claim,
        data=data_claim,
        account=service_account,
    )
    bucket = None if artifacts_claim else remote_artifacts(artifacts)
    found = Workers(name, workers, remote_storage(storage), bucket, grace, tuple(allow or ()))
    text = manifests(found, pods)
    if render:
        sys.stdout.write(text)
        return
    apply(text)
    where = ["-n", namespace] if namespace else []
    forward = " ".join(["kubectl", "port-forward", *where, "deployment/tuner-dashboard", "8080"])
    stop = " ".join(["kubectl", "delete", *where, f"job/tuner-{found.label}"])
    out.print(f"To see the dashboard: {forward}\nTo stop the workers: {stop}", soft_wrap=True)


def apply(text: str) -> None:
    """Apply manifests with kubectl; InputError if it is not installed."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise InputError(
            "kubectl is not installed; install it, or pass --render and apply the output elsewhere"
        )
    done = subprocess.run([kubectl, "apply", "--filename", "-"], input=text, text=True, check=False)
    if done.returncode != 0:
        raise TunerError("kubectl could not apply the manifests; see the lines above")
