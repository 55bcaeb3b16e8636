"""Environment variables: empty values, ~, a missing home folder, and JAX settings."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest
from jaxlib import xla_client

import tuner
from tuner.environment import (
    _temporary_cache,
    default_artifacts,
    default_storage,
    image_cache,
    image_memory,
    program_cache,
    variable,
)
from tuner.errors import InputError
from tuner.files.stores import open_store
from tuner.jax_variables import drop_settings
from tuner.run import gpus
from tuner.spec.loading import load_spec
from tuner.study.urls import parse_url
from tuner.study.workers import this_process
from tuner.xla import check_settings, compiler_options, keep_compiled

COMMAND = [sys.executable, "-P", "-m", "tuner.cli"]
STUDY = '[data]\nsource = "digits"\n[trial]\nwidth = 4\n'


def test_an_empty_variable_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["STORAGE", "ARTIFACTS", "IMAGE_CACHE", "IMAGE_MEMORY", "MACHINE", "PASSWORD_FILE"]
    unset = {}
    for value in (None, ""):
        for name in [*(f"TUNER_{name}" for name in names), "XDG_CACHE_HOME"]:
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)
        unset[value] = [
            *(default_storage(), default_artifacts(), image_cache(), image_memory()),
            *(this_process().host, parse_url("postgresql://me@host/x"), program_cache()),
        ]
    assert unset[None] == unset[""]


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "s.toml").write_text(STUDY)
    assert load_spec("~/s.toml").study.name == "s"
    assert open_store("~/files").url == str(tmp_path / "files")
    assert parse_url("sqlite:///~/studies.db").database == str(tmp_path / "studies.db")
    monkeypatch.setenv("TUNER_IMAGE_CACHE", "~/images")
    assert image_cache() == tmp_path / "images"
    (tmp_path / "password").write_text("secret")
    monkeypatch.setenv("TUNER_PASSWORD_FILE", "~/password")
    assert parse_url("postgresql://me@host/x").password == "secret"


def test_a_user_without_a_home_has_a_cache_for_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)  # no such user
    assert program_cache().parent == _temporary_cache()
    assert _temporary_cache().stat().st_mode & 0o777 == 0o700
    with pytest.raises(InputError, match=r"^artifacts: ~ can't be expanded: .* no home folder$"):
        open_store("~/files")


@pytest.mark.parametrize("text", ["x\0y", "postgresql://me:s3cret@host/x", "me:s3cret@host"])
def test_invalid_paths_are_refused_without_showing_them(text: str) -> None:
    for use in (load_spec, open_store):
        with pytest.raises(InputError) as caught:
            use(text)
        assert "s3cret" not in str(caught.value)


def test_urls_in_variables_are_refused_without_showing_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TUNER_MACHINE", "postgresql://me:s3cret@host/x")
    with pytest.raises(InputError, match=r"^TUNER_MACHINE: ") as caught:
        variable("TUNER_MACHINE")
    assert "s3cret" not in str(caught.value)


def test_jax_settings_that_change_numbers_are_dropped() -> None:
    kept = {"JAX_PLATFORMS": "cpu", "A": ""}
    found = kept | {"JAX_ENABLE_X64": "1", "JAX_COMPILATION_CACHE_DIR": ""}
    drop_settings(found)
    assert found == kept


COUNT_THREADS = """
import os, numpy, threadpoolctl, jax
jax.jit(lambda x: x + 1)(1.0)
blas = {pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
print(*blas, len(os.listdir("/proc/self/task")))
"""


def test_the_installed_libraries_read_the_variables_that_divide_a_gpu_and_the_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = (gpus.FRACTION, gpus.OLDER_FRACTION, gpus.PREALLOCATE, "OPENBLAS_NUM_THREADS")
    for name in limits:
        monkeypatch.delenv(name, raising=False)
    threads = {}
    for each in (1, 8):
        variables = gpus.share({}, workers=2, threads=each)
        done = subprocess.run(
            [sys.executable, "-c", COUNT_THREADS],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            check=True,
        )
        blas, threads[each] = map(int, done.stdout.split())
        assert blas == min(each, os.cpu_count() or 1)  # OpenBLAS uses no more threads than cores
    assert threads[8] - threads[1] >= 7  # XLA uses as many as it is given
    monkeypatch.setenv(gpus.FRACTION, variables[gpus.FRACTION])
    assert xla_client.generate_pjrt_gpu_plugin_options()["memory_fraction"] == 0.375


def test_another_jax_configuration_is_refused() -> None:
    with jax.enable_x64(True):
        with pytest.raises(InputError, match=r"^JAX: found jax_enable_x64 = True, expected False"):
            check_settings()
        with pytest.raises(InputError, match=r"^JAX: found jax_enable_x64 = True"):
            tuner.sweep("not-there.toml")
    check_settings()


def test_options_of_the_compiler_yield_to_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "xla_cpu_experimental_ynn_fusion_type"
    for flags, expected in (("", True), (f"--{name}=LIBRARY_FUSION_TYPE_REDUCE", False)):
        monkeypatch.setenv("XLA_FLAGS", flags)
        assert (name in (compiler_options.__wrapped__("cpu") or {})) == expected
    assert compiler_options("tpu") is None


def test_an_unwritable_cache_is_announced_once(tmp_path: Path) -> None:
    """A file in place of the folder stands for a read-only folder."""
    (tmp_path / "file").touch()
    config: Any = jax.config
    before = config.jax_compilation_cache_dir, config.jax_enable_compilation_cache
    messages: list[str] = []
    try:
        for named in (str(tmp_path / "file"), None):
            config.update("jax_compilation_cache_dir", named)
            keep_compiled(tmp_path / "file" / "compiled", messages.append)
    finally:
        config.update("jax_compilation_cache_dir", before[0])
        config.update("jax_enable_compilation_cache", before[1])
    assert len(messages) == 2
    assert all(line.startswith("compiled programs are not cached: ") for line in messages)


@pytest.mark.parametrize(
    ("name", "value"), [("JAX_PLATFORMS", "foo"), ("XLA_FLAGS", "--xla_of_another_version=1")]
)
def test_invalid_jax_settings_are_one_line_and_save_nothing(
    name: str, value: str, tmp_path: Path
) -> None:
    (tmp_path / "s.toml").write_text(STUDY)
    found = subprocess.run(
        [*COMMAND, "sweep", "s.toml"],
        env=os.environ | {name: value},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 2
    assert found.stderr.startswith(f"tuner: JAX can't start with {name} as set: ")
    assert len(found.stderr.splitlines()) == 1
    assert not (tmp_path / "tuner-data").exists()
