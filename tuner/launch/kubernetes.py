"""Kubernetes manifests: an indexed Job of workers, and a Deployment of the dashboard."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tuner.errors import InputError
from tuner.launch.workers import Workers, render

SAVING = 15  # seconds after the grace period by which a worker has certainly exited
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")  # RFC 1123 subdomain
_IMAGE = re.compile(r"[\w.-]+(:\d+)?(/[\w.-]+)*(:[\w.-]+)?(@sha256:[0-9a-f]{64})?")
_QUANTITY = re.compile(r"\d+(\.\d+)?(m|[kMGTPE]i?)?")
_KEY = r"(?:[a-z0-9.-]+/)?[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)?"
_SELECTOR = re.compile(rf"({_KEY})=({_VALUE})")
_TOLERATION = re.compile(rf"({_KEY})(?:=({_VALUE}))?:(NoSchedule|PreferNoSchedule|NoExecute)")


class Toleration(NamedTuple):
    """A taint that a pod accepts; any value if None."""

    key: str
    value: str | None
    effect: str


class Spot(NamedTuple):
    """How a platform marks its spot nodes, and how many seconds it gives a pod to stop."""

    label: tuple[str, str]
    taint: Toleration | None
    notice: float


# From the documentation of GKE, AKS, EKS and Karpenter. GKE gives 15 s to pods that are not part of
# the system.
SPOT = {
    "gke": Spot(
        ("cloud.google.com/gke-spot", "true"),
        Toleration("cloud.google.com/gke-spot", "true", "NoSchedule"),
        15,
    ),
    "aks": Spot(
        ("kubernetes.azure.com/scalesetpriority", "spot"),
        Toleration("kubernetes.azure.com/scalesetpriority", "spot", "NoSchedule"),
        30,
    ),
    "eks": Spot(("eks.amazonaws.com/capacityType", "SPOT"), None, 120),
    "karpenter": Spot(("karpenter.sh/capacity-type", "spot"), None, 120),
}


@dataclass(frozen=True)
class Pods:
    """Settings of the pods that run a study's workers."""

    image: str
    secret: str  # with the key `password`: the database's
    namespace: str | None = None
    secrets: tuple[str, ...] = ()  # whose keys become environment variables
    gpu: int = 0
    cpu: str = "2"
    memory: str = "8Gi"
    selectors: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    artifacts: str | None = None  # PersistentVolumeClaim
    data: str | None = None  # PersistentVolumeClaim
    account: str | None = None  # ServiceAccount

    def __post_init__(self) -> None:
        names = {
            "--password-from": self.secret,
            "--namespace": self.namespace,
            "--artifacts-claim": self.artifacts,
            "--data-claim": self.data,
            "--service-account": self.account,
        }
        for option, name in [*names.items(), *(("--env-from", name) for name in self.secrets)]:
            if name is not None:
                _check(_NAME, option, name, "a name of lower-case letters, digits, - and .")
        _check(_IMAGE, "--image", self.image, "REGISTRY/NAME:TAG")
        _check(_QUANTITY, "--cpu", self.cpu, "a quantity such as 2 or 500m")
        _check(_QUANTITY, "--memory", self.memory, "a quantity such as 8Gi")


def _check(pattern: re.Pattern[str], option: str, text: str, expected: str) -> re.Match[str]:
    if found := pattern.fullmatch(text):
        return found
    raise InputError(f"{option}: found {text!r}, expected {expected}")


def parse_selector(text: str) -> tuple[str, str]:
    """Parse ``KEY=VALUE``, a node label; InputError for other text."""
    key, value = _check(_SELECTOR, "--node-selector", text, "KEY=VALUE").groups()
    return key, value


def parse_toleration(text: str) -> Toleration:
    """Parse ``KEY=VALUE:EFFECT`` or ``KEY:EFFECT``; InputError for other text."""
    expected = "KEY=VALUE:EFFECT or KEY:EFFECT, such as spot=true:NoSchedule"
    return Toleration(*_check(_TOLERATION, "--toleration", text, expected).groups())


def spot_platform(name: str | None) -> Spot | None:
    """The platform of that name, if any; InputError if there is none."""
    if name is not None and name not in SPOT:
        raise InputError(f"--spot: found {name!r}, expected one of: {', '.join(SPOT)}")
    return SPOT[name] if name else None


def placement(
    platform: Spot | None, selectors: Sequence[str], tolerations: Sequence[str]
) -> tuple[dict[str, str], tuple[Toleration, ...]]:
    """Labels that nodes must have and taints that pods accept: those given, and those of the spot
    nodes of ``platform``."""
    labels = dict(map(parse_selector, selectors))
    taints = tuple(map(parse_toleration, tolerations))
    if platform is None:
        return labels, taints
    own = (platform.taint,) if platform.taint else ()
    return dict([platform.label]) | labels, own + taints


def manifests(workers: Workers, pods: Pods) -> str:
    """YAML of the Job and of the dashboard's Deployment."""
    return job(workers, pods) + "---\n" + dashboard(workers, pods)


def job(workers: Workers, pods: Pods) -> str:
    """YAML of an indexed Job that runs the workers until the study has ended."""
    seconds = math.ceil(workers.grace) + SAVING
    return render(
        "job.yaml", workers=workers, pods=pods, data=pods.data, termination_seconds=seconds
    )


def dashboard(workers: Workers, pods: Pods) -> str:
    """YAML of a Deployment of the dashboard, for all studies in the database."""
    return render("dashboard.yaml", workers=workers, pods=pods, data=None)
