"""Workers that are refused before they claim a trial."""

import gzip
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import PASSWORD, Postgres
from processes import Machine, machines, unpruned_study
from rows import Rows


class Site:
    """A study in Postgres, one of whose trials has been measured."""

    def __init__(self, url: str, here: Machine) -> None:
        self.url, self.here, self.rows = url, here, Rows(url)
        here.environment["TUNER_STORAGE"] = url
        here.succeeds("create", "s.toml")
        here.succeeds("worker", "s", "--max-trials", "1")


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory,
    environment: dict[str, str],
    postgres: Postgres,
    digits: Path,
) -> Iterator[Site]:
    with machines(tmp_path_factory.mktemp("refusals"), environment, "here") as [here]:
        (here.folder / "s.toml").write_text(unpruned_study(digits, trials=2, epochs=1))
        yield Site(postgres.new_database(), here)


@pytest.fixture(autouse=True)
def no_trial_is_claimed(site: Site) -> Iterator[None]:
    """Assert that the test changes no lease and leaves no worker."""
    before = site.rows.leases()
    yield
    assert site.rows.leases() == before
    assert site.rows.read("SELECT * FROM tuner_workers WHERE left_at IS NULL") == []


def test_other_images_are_refused(site: Site, digits: Path, tmp_path: Path) -> None:
    for path in digits.iterdir():
        shutil.copy(path, tmp_path)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    pixels = bytearray(gzip.decompress(file.read_bytes()))
    pixels[-1] ^= 1
    file.write_bytes(gzip.compress(pixels))
    line = site.here.fails_with(2, "worker", "s", "--data", str(tmp_path))
    assert line.startswith("tuner: study 's': found data ")
    assert "numbers would not be comparable" in line


def test_another_version_of_tuner_is_refused(site: Site) -> None:
    [row] = site.rows.read("SELECT tuner_version FROM tuner_studies")
    site.rows.write("UPDATE tuner_studies SET tuner_version = '0.0.7'")
    try:
        line = site.here.fails_with(2, "worker", "s")
    finally:
        site.rows.write(f"UPDATE tuner_studies SET tuner_version = '{row.tuner_version}'")
    assert "was created by tuner 0.0.7" in line


def test_another_artifact_store_is_refused(site: Site, tmp_path: Path) -> None:
    line = site.here.fails_with(3, "worker", "s", "--artifacts", str(tmp_path / "elsewhere"))
    folder = site.here.folder / "tuner-data/artifacts"
    assert f"no files of study 's' at {tmp_path}/elsewhere, but at {folder};" in line
    assert not (tmp_path / "elsewhere").exists()


def test_a_missing_study_is_refused(site: Site) -> None:
    assert "no study 't', expected one of: s" in site.here.fails_with(2, "worker", "t")


def test_a_missing_database_is_refused(site: Site, postgres: Postgres) -> None:
    line = site.here.fails_with(3, "worker", "s", "--storage", postgres.url("nowhere"))
    assert 'database "nowhere" does not exist' in line
    assert PASSWORD not in line


def test_an_unreachable_server_is_reported(site: Site, postgres: Postgres) -> None:
    url = site.url.replace(f":{postgres.port}/", ":9/")
    line = site.here.fails_with(3, "worker", "s", "--storage", url)
    assert "owner@127.0.0.1:9/" in line
    assert "Connection refused" in line


def test_a_wrong_password_is_refused(site: Site, postgres: Postgres) -> None:
    name = site.url.rpartition("/")[2]
    url = postgres.url(name, password="not/it")
    line = site.here.fails_with(3, "worker", "s", "--storage", url)
    assert "password authentication failed" in line
    assert "not/it" not in line
    assert "not%2Fit" not in line


def test_an_unsupported_storage_url_is_refused(site: Site) -> None:
    line = site.here.fails_with(2, "worker", "s", "--storage", "mysql://me:secret@host/x")
    assert "expected sqlite:///FILE or postgresql://USER@HOST/DATABASE" in line
    assert "secret" not in line
