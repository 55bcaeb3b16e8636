"""Passwords made by deploy/secrets.sh: file modes, ignored paths, the proxy's login file."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from compose_file import ROOT, SECRET_FILES, compose, in_build_context, make_secrets


def test_mounted_files_are_readable_in_a_checkout_under_umask_077(tmp_path: Path) -> None:
    for name in ("deploy", "studies"):
        shutil.copytree(ROOT / name, tmp_path / name)
    subprocess.run(["chmod", "-R", "go-rwx", str(tmp_path)], check=True)
    make_secrets(tmp_path)
    for service in compose()["services"].values():
        for volume in service.get("volumes", ()):
            source = tmp_path / volume.split(":")[0]
            if volume.startswith("./"):
                for path in (source, *source.rglob("*")):
                    needed = 0o5 if path.is_dir() else 0o4
                    assert path.stat().st_mode & needed == needed, path
    assert stat.S_IMODE((tmp_path / "deploy/secrets").stat().st_mode) == 0o700


def test_git_and_images_ignore_secrets() -> None:
    for path in (*(f"deploy/secrets/{name}" for name in SECRET_FILES), ".env"):
        assert not in_build_context(path), path
        if (ROOT / ".git").exists():
            ignored = subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, check=False)
            assert ignored.returncode == 0, path


@pytest.mark.parametrize("text", ["", "tuner", "tuner:\n", ":password\n", "a:b:c\n", "a:b\n\n"])
def test_the_proxy_refuses_an_invalid_login(text: str, tmp_path: Path) -> None:
    """Before nginx starts: an empty password would let everyone in."""
    file = tmp_path / "login"
    file.write_text(text)
    started = subprocess.run(
        ["sh", str(ROOT / "deploy/proxy/start.sh")],
        env={"PATH": os.environ["PATH"], "DASHBOARD_LOGIN_FILE": str(file)},
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    assert started.returncode == 2
    assert started.stderr == f"{file}: expected user:password on every line, and no other colon\n"
