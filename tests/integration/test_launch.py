"""``tuner launch``: manifests printed, or handed to kubectl and sky; errors of one line."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from command_line import call
from ruamel.yaml import YAML

from tuner.launch.workers import KILLED, STOPPED

ROOT = Path(__file__).parents[2]
STORAGE = ("--storage", "postgresql://tuner:geheim@db.example/tuner")
KUBECTL = shutil.which("kubectl")
KUBERNETES = ("launch", "kubernetes", "fashion_mnist", *STORAGE, "--image")


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the only one on PATH, except for a shell."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "cat").symlink_to(shutil.which("cat") or "")
    monkeypatch.setenv("PATH", str(folder))
    for name in [name for name in os.environ if name.startswith("TUNER_")]:
        monkeypatch.delenv(name)
    return folder


def stub(folder: Path, name: str, code: int = 0) -> Path:
    """A program that records its arguments and standard input; the file with them."""
    record = folder / f"{name}.txt"
    (folder / name).write_text(f'#!/bin/sh\n{{ echo "$@"; cat; }} >>{record}\nexit {code}\n')
    (folder / name).chmod(0o755)
    return record


def test_rendered_manifests_are_yaml_without_the_password(
    capsys: pytest.CaptureFixture[str],
) -> None:
    digest = f"registry.example:5000/tuner:1@sha256:{'0f' * 32}"
    assert call(*KUBERNETES, digest, "--workers", "3", "--spot", "gke", "--render") == 0
    text = capsys.readouterr().out
    job, _ = YAML(typ="safe", pure=True).load_all(text)
    assert job["spec"]["parallelism"] == 3
    pod = job["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == digest
    assert pod["nodeSelector"] == {"cloud.google.com/gke-spot": "true"}
    assert pod["containers"][0]["args"][2:4] == ["--grace", "10"]  # GKE allows 15 s
    assert "geheim" not in text


def test_manifests_are_applied_with_kubectl(
    programs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    record = stub(programs, "kubectl")
    assert call(*KUBERNETES, "tuner:1", "--namespace", "ml") == 0
    arguments, _, text = record.read_text().partition("\n")
    assert arguments == "apply --filename -"
    assert [found["kind"] for found in YAML(typ="safe", pure=True).load_all(text)] == [
        "Job",
        "Deployment",
    ]
    out = capfd.readouterr().out
    assert "kubectl port-forward -n ml deployment/tuner-dashboard 8080" in out
    assert "kubectl delete -n ml job/tuner-fashion-mnist" in out


def test_failures_of_kubectl_are_reported(
    programs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*KUBERNETES, "tuner:1") == 2
    assert capsys.readouterr().err == (
        "tuner: kubectl is not installed; install it, or pass --render and apply the output "
        "elsewhere\n"
    )
    stub(programs, "kubectl", code=1)
    assert call(*KUBERNETES, "tuner:1") == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ("tuner:1", "--spot", "gcp"),
        ("tuner 1",),
        ("tuner:1", "--storage", "sqlite:///a.db"),
        ("tuner:1", "--artifacts", "tuner-data"),
        ("tuner:1", "--gpu", "2"),
        ("user:geheim@registry/tuner",),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*KUBERNETES, *words, "--render") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "geheim" not in captured.err
    assert captured.err.strip().splitlines()[-1]


def test_a_mounted_folder_replaces_the_bucket(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TUNER_ARTIFACTS", "tuner-data")
    assert call(*KUBERNETES, "tuner:1", "--artifacts-claim", "files", "--render") == 0
    assert "TUNER_ARTIFACTS" not in capsys.readouterr().out


def test_a_skypilot_task_recovers_stopped_workers(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("launch", "skypilot", "fashion_mnist", *STORAGE, "--accelerator", "L4:1", "--render")
    assert call(*words) == 0
    text = capsys.readouterr().out
    task = YAML(typ="safe", pure=True).load(text)
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [STOPPED, KILLED]
    assert task["resources"]["accelerators"] == "L4:1"
    assert task["envs"] == {"TUNER_STORAGE": "postgresql://tuner@db.example/tuner"}
    assert task["secrets"] == {"PGPASSWORD": None}
    assert "tuner worker fashion_mnist --grace 25 --signal-exit-code 75" in task["run"]
    assert ".[demo,s3,gs,cuda12]" in task["setup"]


def test_workers_are_submitted_with_sky_one_by_one(
    programs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("launch", "skypilot", "fashion_mnist", *STORAGE)
    assert call(*words) == 2
    assert "sky is not installed" in capfd.readouterr().err
    record = stub(programs, "sky")
    assert call(*words, "--workers", "2") == 0
    lines = record.read_text().splitlines()
    assert [line.split()[:3] for line in lines] == [["jobs", "launch", "--yes"]] * 2


@pytest.mark.skipif(
    KUBECTL is None,
    reason="kubectl, which builds the overlay, is not installed",
)
def test_kustomize_builds_an_overlay_of_the_base(tmp_path: Path) -> None:
    """That of docs/operations.md."""
    page = (ROOT / "docs" / "operations.md").read_text()
    [overlay] = [part for part in page.split("```") if "kind: Kustomization" in part]
    shutil.copytree(ROOT / "deploy" / "kubernetes", tmp_path / "deploy" / "kubernetes")
    (tmp_path / "overlay").mkdir()
    (tmp_path / "overlay" / "kustomization.yaml").write_text(overlay.partition("\n")[2])
    words = [str(KUBECTL), "kustomize", "overlay"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = {each["kind"]: each for each in YAML(typ="safe", pure=True).load_all(done.stdout)}
    job = found["Job"]
    assert job["metadata"] | {"labels": {}} == {
        "name": "tuner-fashion-mnist",
        "namespace": "ml",
        "labels": {},
    }
    assert (job["spec"]["completions"], job["spec"]["parallelism"]) == (16, 16)
    [worker] = job["spec"]["template"]["spec"]["containers"]
    assert worker["image"] == "registry.example/tuner:0.1"
    assert worker["args"][:2] == ["worker", "fashion_mnist"]
