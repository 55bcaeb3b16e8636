"""Kubernetes manifests: valid for several versions, and right about failures, time and secrets."""

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from tuner.errors import HUNG_EXIT_CODE, InputError
from tuner.launch.kubernetes import (
    SPOT,
    Pods,
    manifests,
    parse_selector,
    parse_toleration,
)
from tuner.launch.workers import STOPPED, Workers, remote_artifacts, remote_storage
from tuner.run.fleet import LATE

Yaml = dict[str, Any]

VERSIONS = (
    "1.29",
    "1.31",
    "1.34",
    "1.37",
)  # the oldest one that the Job needs, to the newest known
ROOT = Path(__file__).parents[2]
STORAGE = "postgresql://tuner@db.example/tuner"
WORKERS = Workers("fashion_mnist", 16, STORAGE, "s3://bucket/tuner", 25.0)
PLAIN = Pods(image="registry.example:5000/our/tuner:1", secret="tuner-database")
EVERYTHING = Pods(
    image=f"registry.example/tuner:1@sha256:{'0f' * 32}",
    secret="database",
    namespace="ml",
    secrets=("aws", "more"),
    gpu=1,
    cpu="3500m",
    memory="16Gi",
    selectors=dict([SPOT["gke"].label, parse_selector("gpu=a100")]),
    tolerations=(
        *(platform.taint for platform in SPOT.values() if platform.taint),
        parse_toleration("example.com/batch:NoExecute"),
        parse_toleration("pool=a:PreferNoSchedule"),
    ),
    artifacts="artifacts",
    data="images",
    account="tuner",
)


def load(text: str) -> list[Yaml]:
    return list(YAML(typ="safe", pure=True).load_all(text))


def objects(workers: Workers = WORKERS, pods: Pods = PLAIN) -> tuple[Yaml, Yaml]:
    """The Job and the Deployment."""
    job, deployment = load(manifests(workers, pods))
    assert (job["kind"], deployment["kind"]) == ("Job", "Deployment")
    return job, deployment


def pod_of(found: Yaml) -> tuple[Yaml, Yaml]:
    """The pod's specification and that of its only container."""
    pod = found["spec"]["template"]["spec"]
    [container] = pod["containers"]
    return pod, container


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("pods", [PLAIN, EVERYTHING], ids=["plain", "everything"])
def test_manifests_follow_the_published_schemas(pods: Pods, version: str) -> None:
    for found in objects(pods=pods):
        assert kubernetes_validate.validate(found, version, strict=True) == version


def test_the_schemas_notice_mistakes() -> None:
    job, _ = objects()
    job["spec"]["podFailurePolicy"]["rules"][0]["onExitCode"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, VERSIONS[-1], strict=True)


def action(job: Yaml, exit_code: int, *conditions: str) -> str:
    """What the Job controller does with a failed pod: the first rule that matches, else Count.

    https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-failure-policy
    """
    for rule in job["spec"]["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes")
        if codes is not None:
            assert codes["containerName"] == "worker"
            assert (codes["operator"], 0 in codes["values"]) == ("In", False)
        if codes is not None and exit_code in codes["values"]:
            return str(rule["action"])
        wanted = [pattern["type"] for pattern in rule.get("onPodConditions", ())]
        if set(wanted) & set(conditions):
            return str(rule["action"])
    return "Count"


def test_only_wrong_input_fails_the_job_and_disruptions_do_not_count() -> None:
    job, _ = objects()
    assert action(job, InputError.exit_code) == "FailJob"
    for code in (STOPPED, 137, 143):
        assert action(job, code, "DisruptionTarget") == "Ignore"
    assert action(job, STOPPED) == action(job, 143) == "Ignore"
    for code in (1, 3, HUNG_EXIT_CODE, 137):
        assert action(job, code) == "Count"
    assert job["spec"]["backoffLimitPerIndex"] > 0


def test_each_worker_is_an_index_that_ends_with_the_study() -> None:
    """A worker exits with 0 only then; Kubernetes would not replace one that did."""
    job, _ = objects()
    spec, (pod, worker) = job["spec"], pod_of(job)
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 16, 16)
    assert pod["restartPolicy"] == "Never"
    assert worker["args"][:2] == ["worker", "fashion_mnist"]
    assert worker["args"][worker["args"].index("--signal-exit-code") + 1] == str(STOPPED)


@pytest.mark.parametrize("grace", [0.0, 9.5, 25.0, 600.0])
def test_pods_have_time_to_finish_the_epoch_and_release_the_trial(grace: float) -> None:
    pod, worker = pod_of(objects(Workers("s", 1, STORAGE, None, grace))[0])
    assert float(worker["args"][worker["args"].index("--grace") + 1]) == grace
    assert pod["terminationGracePeriodSeconds"] >= grace + LATE
    assert pod["shareProcessNamespace"] is True


def test_passwords_come_from_existing_secrets_only() -> None:
    for found in objects(pods=EVERYTHING):
        pod, container = pod_of(found)
        environment = {each["name"]: each["value"] for each in container["env"]}
        [volume] = [v["secret"] for v in pod["volumes"] if "secret" in v]
        [key] = volume["items"]
        [mount] = [m for m in container["volumeMounts"] if m["name"] == "password"]
        assert volume["secretName"] == "database"
        assert environment["TUNER_PASSWORD_FILE"] == f"{mount['mountPath']}/{key['path']}"
        assert [each["secretRef"]["name"] for each in container["envFrom"]] == ["aws", "more"]
    url = remote_storage("postgresql://tuner:geheim@db.example/tuner?sslmode=require")
    assert url == "postgresql://tuner@db.example/tuner?sslmode=require"


def test_containers_are_unprivileged_and_read_only() -> None:
    for found in objects():
        pod, container = pod_of(found)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounted) == {volume["name"] for volume in pod["volumes"]}
        environment = {each["name"]: each["value"] for each in container["env"]}
        assert environment["XDG_CACHE_HOME"] == mounted["cache"]
        assert mounted["tmp"] == "/tmp"


def test_the_user_is_that_of_the_image() -> None:
    """By number: Kubernetes can't tell whether a name is root's."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    for found in objects():
        context = pod_of(found)[0]["securityContext"]
        assert f"\nUSER {context['runAsUser']}:{context['runAsGroup']}\n" in dockerfile


def test_spot_nodes_are_selected_and_tolerated() -> None:
    pod, worker = pod_of(objects(pods=EVERYTHING)[0])
    assert pod["nodeSelector"] == {"cloud.google.com/gke-spot": "true", "gpu": "a100"}
    assert worker["resources"]["limits"] == {"memory": "16Gi", "nvidia.com/gpu": 1}
    taints = {t["key"]: (t["operator"], t.get("value"), t["effect"]) for t in pod["tolerations"]}
    assert taints == {
        "nvidia.com/gpu": ("Exists", None, "NoSchedule"),
        "cloud.google.com/gke-spot": ("Equal", "true", "NoSchedule"),
        "kubernetes.azure.com/scalesetpriority": ("Equal", "spot", "NoSchedule"),
        "example.com/batch": ("Exists", None, "NoExecute"),
        "pool": ("Equal", "a", "PreferNoSchedule"),
    }
    plain, _ = pod_of(objects()[0])
    assert not {"nodeSelector", "tolerations"} & set(plain)


def test_claims_are_mounted_where_workers_look() -> None:
    job, deployment = objects(pods=EVERYTHING)
    pod, worker = pod_of(job)
    claims = {
        v["name"]: v["persistentVolumeClaim"]["claimName"]
        for v in pod["volumes"]
        if "persistentVolumeClaim" in v
    }
    assert claims == {"artifacts": "artifacts", "data": "images"}
    assert {"name": "TUNER_DATA", "value": "/data"} in worker["env"]
    for found in (job, deployment):
        arguments = pod_of(found)[1]["args"]
        assert arguments[arguments.index("--artifacts") + 1] == "/artifacts"


def test_the_dashboard_listens_inside_its_pod_and_is_probed_there() -> None:
    """It has no login: nothing but kubectl port-forward reaches it."""
    _, container = pod_of(objects()[1])
    assert "--host" not in container["args"]
    assert "ports" not in container
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert "http://127.0.0.1:8080/dashboard" in container[probe]["exec"]["command"][-1]


@pytest.mark.parametrize("name", ["a", "fashion_mnist", "Größe 2", "x" * 300, "-", "a.b", "a b"])
def test_names_of_studies_become_names_of_jobs(name: str) -> None:
    job, _ = objects(Workers(name, 10_000, STORAGE, None, 25.0))
    found = job["metadata"]["name"]
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", found)
    assert len(f"{found}-9999") <= 63
    assert pod_of(job)[1]["args"][1] == name


def test_names_that_differ_keep_different_jobs() -> None:
    names = ["a.b", "a b", "A b", "x" * 50, "x" * 51, "Ä", "Ö"]
    assert len({Workers(name, 1, STORAGE, None, 1.0).label for name in names}) == len(names)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("image", "tuner 1"),
        ("image", "https://registry/tuner"),
        ("secret", "Tuner"),
        ("namespace", "a_b"),
        ("secrets", ("a\nb",)),
        ("cpu", "two"),
        ("memory", "8 GB"),
        ("artifacts", ""),
    ],
)
def test_wrong_values_are_refused(option: str, value: object) -> None:
    values: Yaml = {"image": "tuner:1", "secret": "tuner-database", option: value}
    with pytest.raises(InputError, match=r"^--[a-z-]+: found .*, expected "):
        Pods(**values)


@pytest.mark.parametrize(
    "text", ["", "a", "a:", "a=b", "a=b:Never", "=b:NoSchedule", "a=b c:NoSchedule"]
)
def test_wrong_tolerations_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^--toleration: found .*, expected KEY=VALUE:EFFECT"):
        parse_toleration(text)


@pytest.mark.parametrize("text", ["", "a", "=b", "a=b=c", "a b=c"])
def test_wrong_selectors_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^--node-selector: found .*, expected KEY=VALUE"):
        parse_selector(text)


def test_a_database_on_one_machine_is_refused() -> None:
    with pytest.raises(InputError, match="SQLite file can't be shared between machines"):
        remote_storage("sqlite:///studies.db")


def test_artifacts_must_be_in_a_bucket() -> None:
    assert remote_artifacts(None) is None
    for url in ("s3://bucket", "gs://our-bucket/tuner/a_b"):
        assert remote_artifacts(url) == url
    for url in ("tuner-data/artifacts", "s3://key:geheim@bucket/x", "ftp://host/artifacts"):
        with pytest.raises(InputError, match="need s3://BUCKET/PREFIX") as caught:
            remote_artifacts(url)
        assert "geheim" not in str(caught.value)
