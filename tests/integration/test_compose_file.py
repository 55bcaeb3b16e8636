"""docker-compose.yml, the Dockerfile and the image's build context."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from compose_file import ROOT, MissingError, compose, in_build_context, steps
from ruamel.yaml import YAML

WORKERS = ("worker", "worker-gpu")


def test_the_file_follows_the_published_schema(tmp_path: Path) -> None:
    """The schema of compose-spec, from the package check-jsonschema."""
    file = tmp_path / "compose.yml"
    YAML(typ="safe", pure=True).dump(compose(), file)
    words = ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    checked = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_missing_passwords_are_reported_with_the_remedy() -> None:
    with pytest.raises(MissingError, match=r"TUNER_SECRETS: run 'sh deploy/secrets\.sh' first"):
        compose(TUNER_SECRETS="")


def ports(**variables: str) -> dict[str, list[str]]:
    """Published ports of each service."""
    services = compose(**variables)["services"]
    return {name: service["ports"] for name, service in services.items() if "ports" in service}


def test_only_the_proxy_publishes_a_port_on_loopback() -> None:
    assert ports().pop("proxy") == ["127.0.0.1:8080:8080"]
    chosen = ports(DASHBOARD_ADDRESS="192.0.2.1", DASHBOARD_PORT="443")
    assert chosen.pop("proxy") == ["192.0.2.1:443:8080"]
    for name in chosen:
        assert compose()["services"][name]["profiles"] == ["monitoring"]


def test_monitoring_is_opt_in_and_on_loopback() -> None:
    monitoring = {name: s for name, s in compose()["services"].items() if "monitoring" in str(s)}
    assert set(monitoring) == {"prometheus", "grafana"}
    open_ports = ports(DASHBOARD_ADDRESS="192.0.2.1", PROMETHEUS_PORT="1", GRAFANA_PORT="2")
    assert open_ports["prometheus"] == ["127.0.0.1:1:9090"]
    assert open_ports["grafana"] == ["127.0.0.1:2:3000"]
    environment = monitoring["grafana"]["environment"]
    assert environment["GF_SECURITY_ADMIN_PASSWORD__FILE"] == "/run/secrets/grafana_password"
    assert not any("ANONYMOUS" in name for name in environment)


def test_no_password_is_in_the_file() -> None:
    for name, service in compose()["services"].items():
        for key, value in service.get("environment", {}).items():
            assert not re.search(r"//[^/]*:[^/]*@", value), (name, key)
            if re.search("PASSWORD|LOGIN|SECRET|KEY", key):
                assert key.endswith("_FILE"), (name, key)
                assert value.startswith("/run/secrets/"), (name, key)


def test_named_secrets_volumes_and_services_exist() -> None:
    file = compose()
    secret_files = {f"/run/secrets/{name}": name for name in file["secrets"]}
    for name, service in file["services"].items():
        assert set(service.get("depends_on", {})) <= set(file["services"]), name
        assert set(service.get("secrets", ())) <= set(file["secrets"]), name
        read = set(service.get("environment", {}).values()) & set(secret_files)
        assert {secret_files[path] for path in read} <= set(service.get("secrets", ())), name
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if "/" in source else source in file["volumes"], volume


def test_images_are_pinned_and_no_service_runs_as_root() -> None:
    services = compose()["services"]
    for name, service in services.items():
        if "build" in service:
            assert service["build"]["context"] == ".", name
        else:
            assert re.search(r":(\d+(-alpine)?|v?\d+\.\d+\.\d+)$", service["image"]), name
            assert service["user"] != "root", name
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", steps("USER")[-1])
    for base in steps("FROM"):
        assert re.fullmatch(r"python:3\.\d+-slim( AS \w+)?", base)


def test_every_long_running_service_has_a_health_check() -> None:
    services = compose()["services"]
    checked = {name for name, service in services.items() if service.get("healthcheck")}
    assert set(services) - checked == {"create"}
    port = services["worker"]["environment"]["TUNER_METRICS_PORT"]
    assert f"http://127.0.0.1:{port}/metrics" in services["worker"]["healthcheck"]["test"][-1]


def test_containers_of_tuner_and_the_proxy_are_read_only() -> None:
    for name in ("create", *WORKERS, "dashboard", "proxy"):
        service = compose()["services"][name]
        assert service["read_only"] is True, name
        assert service["tmpfs"] == ["/tmp"], name
        assert service["cap_drop"] == ["ALL"], name


def test_identical_builds_share_an_image() -> None:
    built = [service for service in compose()["services"].values() if "build" in service]
    images: dict[str, list[str]] = {}
    for service in built:
        images.setdefault(service["build"]["args"]["EXTRAS"], []).append(service["image"])
    assert {extras: set(names) for extras, names in images.items()} == {
        "demo,s3": {"tuner:local"},
        "demo,s3,cuda13": {"tuner:local-gpu"},
    }


def test_the_compile_cache_outlives_containers() -> None:
    services = compose()["services"]
    assert all("cache:/home/tuner/.cache/tuner" in services[n]["volumes"] for n in WORKERS)


def test_the_dashboard_has_time_to_start_on_slow_machines() -> None:
    """Imports take half a minute when many containers start at once."""
    dashboard = compose()["services"]["dashboard"]
    assert dashboard["healthcheck"]["start_period"] == "120s"
    assert dashboard["stop_grace_period"] == "30s"


def test_workers_start_after_create_and_have_time_to_release() -> None:
    services = compose()["services"]
    assert services["create"]["depends_on"]["db"]["condition"] == "service_healthy"
    for name in WORKERS:
        condition = services[name]["depends_on"]["create"]["condition"]
        assert condition == "service_completed_successfully", name
        assert services[name]["stop_grace_period"] == "60s", name
    assert services["worker-gpu"]["profiles"] == ["gpu"]
    by_default = {name for name, service in services.items() if "profiles" not in service}
    assert by_default == {"db", "create", "worker", "dashboard", "proxy"}


def test_workers_join_the_created_study() -> None:
    def commands(**variables: str) -> list[list[str]]:
        services = compose(**variables)["services"]
        return [services[name]["command"] for name in ("create", "worker", "worker-gpu")]

    quick = ["worker", "quickstart"]
    assert commands() == [["create", "studies/quickstart.toml"], quick, quick]
    assert commands(STUDY="a")[:2] == [["create", "studies/a.toml"], ["worker", "a"]]
    assert commands(STUDY="a", STUDY_NAME="b")[1] == ["worker", "b"]


def copied() -> list[str]:
    """Paths that COPY steps take from the checkout, not from another stage."""
    own = [step for step in steps("COPY") if "--from=" not in step]
    sources = [[w for w in step.split() if not w.startswith("--")][:-1] for step in own]
    return [source for step in sources for source in step]


def test_files_copied_into_the_image_exist_and_are_not_ignored() -> None:
    assert {"pyproject.toml", "requirements.lock", "tuner", "studies"} <= set(copied())
    for source in copied():
        assert (ROOT / source).exists(), source
        assert in_build_context(source), source


def test_nothing_else_reaches_the_builder() -> None:
    for path in ROOT.iterdir():
        sources = [source.split("/")[0] for source in copied()]
        if path.name not in sources:
            assert not in_build_context(path.name), path
    assert in_build_context("tuner/cli.py")
    assert not in_build_context("tuner/run/__pycache__/x.pyc")
    assert not in_build_context("deploy/secrets.sh")


def test_dependencies_are_installed_without_the_sources() -> None:
    """Otherwise every edit of the sources would reinstall them, and change the largest layer."""
    stages = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.M)[1:]
    dependencies, package, last = stages
    assert "-c requirements.lock" in dependencies
    assert "COPY tuner tuner" not in dependencies
    assert "COPY tuner tuner" in package
    assert "--no-deps" in package
    assert "pip install" not in last
    assert last.index("COPY --from=dependencies") < last.index("COPY --from=package")


def test_the_image_has_the_extras_that_the_services_need() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    built = [s["build"]["args"]["EXTRAS"] for s in compose()["services"].values() if "build" in s]
    default = next(a.removeprefix("EXTRAS=") for a in steps("ARG") if a.startswith("EXTRAS="))
    for extras in (*built, default):
        assert {"demo", "s3"} <= set(extras.split(",")) <= set(project["optional-dependencies"])
    assert steps("ENTRYPOINT") == ['["tuner"]']
    assert "tuner" in project["scripts"]
    assert shutil.which("tuner", path=str(Path(sys.executable).parent))
    assert "optuna-dashboard" in " ".join(project["dependencies"])


def test_the_user_owns_the_mount_points() -> None:
    """A new volume takes the owner of the folder that it is mounted on in the image."""
    made = next(step for step in steps("RUN") if "useradd" in step)
    user = re.search(r"--uid (\d+)", made)
    assert user
    assert steps("USER") == [f"{user[1]}:{user[1]}"]
    assert "--owner=tuner" in made
    for volume in compose()["services"]["worker"]["volumes"]:
        _, target, *mode = volume.split(":")
        assert mode == ["ro"] or target in made.split(), volume
