"""Feature extractor and reference statistics, prepared by one worker for all."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import study_databases
from study_databases import Studies

from tuner.data import ImageSet
from tuner.errors import InputError
from tuner.files.serialization import decode
from tuner.files.stores import open_store
from tuner.files.study_files import StudyFiles
from tuner.metrics import evaluate, extractors
from tuner.metrics.extractors import Extractor, train_classifier
from tuner.run import sharing
from tuner.run.sharing import EXTRACTOR, REFERENCE, Measures, StoppedError, shared_measures
from tuner.run.signals import Stop
from tuner.spec.loading import parse_spec
from tuner.spec.study import StudySpec
from tuner.study.session import WorkerSession

url, studies = study_databases.url, study_databases.studies


def spec_of(kind: str) -> StudySpec:
    return parse_spec({"metrics": {"features": kind, "samples": 30}}, "test")


def image_set(seed: int = 0) -> ImageSet:
    """Sixty images of two easily separable classes."""
    labels = np.arange(60) % 2
    images = np.random.default_rng(seed).integers(0, 100, (60, 32, 32, 1), np.uint8)
    images[labels == 1] += 100
    return ImageSet(images, labels, f"fingerprint-{seed}")


IMAGES = image_set()


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Shorten training; the list gets an element for each training."""
    count: list[int] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def train(*args: np.ndarray) -> Extractor:
        count.append(1)
        return train_classifier(*args)

    monkeypatch.setattr(extractors, "EPOCHS", 1)
    monkeypatch.setattr(sharing, "PAUSE", 0.02)
    monkeypatch.setattr(sharing, "train_classifier", train)
    return count


def files_of(folder: Path, study: str = "study") -> StudyFiles:
    return StudyFiles(open_store(str(folder)), study).begin("a token")


def measures(
    files: StudyFiles, kind: str = "classifier", session: WorkerSession | None = None
) -> Measures:
    return shared_measures(spec_of(kind), IMAGES, files, session, print)


def content(files: StudyFiles) -> list[Any]:
    """Metadata and arrays of both files, bit for bit; their order in a file may differ."""
    found = []
    for name in (EXTRACTOR, REFERENCE):
        arrays, about = decode(files.read(name) or b"", name)
        found.append((about, {key: x.tobytes() for key, x in arrays.items()}))
    return found


def test_measures_are_prepared_once_and_read_by_all(tmp_path: Path, trained: list[int]) -> None:
    files = files_of(tmp_path)
    first = measures(files)
    made = [files.read(name) for name in (EXTRACTOR, REFERENCE)]
    second = measures(files_of(tmp_path))
    assert [files.read(name) for name in (EXTRACTOR, REFERENCE)] == made
    assert len(trained) == 1
    assert second.extractor.digest == first.extractor.digest
    assert second.extractor.accuracy == first.extractor.accuracy
    assert second.real.moments.trace == first.real.moments.trace
    np.testing.assert_array_equal(second.real.moments.root, first.real.moments.root)
    np.testing.assert_array_equal(second.extractor(IMAGES.images), first.extractor(IMAGES.images))


def test_studies_of_the_same_images_share_a_classifier(tmp_path: Path, trained: list[int]) -> None:
    measures(files_of(tmp_path, "one"))
    measures(files_of(tmp_path, "two"))
    assert content(files_of(tmp_path, "one")) == content(files_of(tmp_path, "two"))
    assert len(trained) == 1
    files = files_of(tmp_path, "three")
    shared_measures(spec_of("classifier"), image_set(1), files, None, print)
    assert len(trained) == 2


def machine_cache(folder: Path) -> Path:
    return folder / "cache" / "tuner" / "measures"


def test_artifact_stores_of_one_machine_share_a_classifier_and_statistics(
    tmp_path: Path, trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = files_of(tmp_path / "one"), files_of(tmp_path / "two")
    measures(one)
    with monkeypatch.context() as patch:
        patch.delattr(evaluate, "reference_statistics")
        measures(two)
    assert content(one) == content(two)
    assert len(trained) == 1
    cache = machine_cache(tmp_path)
    for kept in cache.iterdir():
        kept.write_bytes(kept.read_bytes()[:-1])  # damaged
    three = files_of(tmp_path / "three")
    measures(three)
    assert content(one) == content(three)
    assert len(trained) == 2
    shutil.rmtree(cache)
    cache.touch()  # so that the folder can't be created
    measures(files_of(tmp_path / "four"))
    assert len(trained) == 3


def test_statistics_belong_to_images_extractor_and_number_of_samples(
    tmp_path: Path, trained: list[int]
) -> None:
    others = [("random", 20, IMAGES), ("classifier", 30, IMAGES), ("random", 30, image_set(1))]
    for i, (kind, samples, images) in enumerate([("random", 30, IMAGES), *others]):
        spec = parse_spec({"metrics": {"features": kind, "samples": samples}}, "test")
        real = shared_measures(spec, images, files_of(tmp_path / f"{i}"), None, print).real
        assert real.radii.shape[1] == samples
        assert len(list(machine_cache(tmp_path).glob("reference-*"))) == i + 1


@pytest.mark.parametrize("damage", [b"torn", b"", None])
@pytest.mark.parametrize("name", [EXTRACTOR, REFERENCE])
def test_damaged_files_are_recomputed_identically(
    name: str, damage: bytes | None, tmp_path: Path, trained: list[int]
) -> None:
    files = files_of(tmp_path)
    measures(files)
    made = content(files)
    shutil.rmtree(machine_cache(tmp_path))
    if damage is None:
        files.remove(name)
    else:
        files.write(name, damage)
    measures(files)
    assert content(files) == made
    assert len(trained) == 1


def test_a_classifier_that_is_damaged_everywhere_is_trained_again(
    tmp_path: Path, trained: list[int]
) -> None:
    files = files_of(tmp_path)
    measures(files)
    made = content(files)
    [copy] = files.store.names("extractors")
    files.store.write(copy, b"torn")
    files.write(EXTRACTOR, b"torn")
    shutil.rmtree(tmp_path / "cache")
    measures(files)
    assert content(files) == made  # equal, as it is the same machine
    assert len(trained) == 2


def test_the_studys_own_classifier_precedes_the_shared_one(
    tmp_path: Path, trained: list[int]
) -> None:
    """Another machine may have replaced the shared one; the study keeps its own numbers."""
    files = files_of(tmp_path)
    measures(files)
    made = content(files)
    [copy] = files.store.names("extractors")
    other = files_of(tmp_path / "elsewhere")
    shared_measures(spec_of("classifier"), image_set(1), other, None, print)
    data = other.read(EXTRACTOR)
    assert data is not None
    files.store.write(copy, data)
    files.remove(REFERENCE)
    measures(files)
    assert content(files) == made


def test_random_features_need_no_training(tmp_path: Path, trained: list[int]) -> None:
    found = measures(files_of(tmp_path), "random")
    assert (found.extractor.kind, found.extractor.accuracy) == ("random", None)
    assert trained == []
    assert files_of(tmp_path).store.names("extractors") == []


def test_identical_images_are_refused(tmp_path: Path, trained: list[int]) -> None:
    black = IMAGES._replace(images=np.zeros((60, 32, 32, 1), np.uint8))
    files = files_of(tmp_path)
    with pytest.raises(InputError, match="all images have the same features"):
        shared_measures(spec_of("random"), black, files, None, print)
    assert [files.read(name) for name in (EXTRACTOR, REFERENCE)] == [None, None]


def test_workers_that_begin_at_once_train_once(
    studies: Studies, tmp_path: Path, trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    studies.create()
    sessions = [studies.join() for _ in range(3)]
    messages: list[str] = []
    waiting = threading.Event()

    def announce(text: str) -> None:
        messages.append(text)
        if len(messages) == 3:
            waiting.set()

    make = sharing._make

    def make_late(*args: Any) -> None:
        assert waiting.wait(20)  # until the other workers have announced their wait
        make(*args)

    monkeypatch.setattr(sharing, "_make", make_late)

    def join(session: WorkerSession) -> Measures:
        return shared_measures(spec_of("classifier"), IMAGES, files_of(tmp_path), session, announce)

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(join, sessions))
    assert len({measure.extractor.digest for measure in found}) == 1
    assert len(trained) == 1
    wait = "waiting for another worker to prepare the feature extractor"
    assert sorted(messages) == [
        "preparing the feature extractor and the real images' statistics",
        wait,
        wait,
    ]


def test_files_prepared_meanwhile_are_used(
    studies: Studies, tmp_path: Path, trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker prepares the files between this worker's check and its turn.

    Files prepared again, on another machine, could differ from those already read.
    """
    studies.create()
    session, files = studies.join(), files_of(tmp_path)
    may_prepare, make, made = session.may_prepare, sharing._make, list[int]()

    def prepare_first() -> bool:
        measures(files)
        return may_prepare()

    def count(*args: Any) -> None:
        made.append(1)
        make(*args)

    monkeypatch.setattr(session, "may_prepare", prepare_first)
    monkeypatch.setattr(sharing, "_make", count)
    measures(files, session=session)
    assert len(made) == 1
    assert studies.rows("SELECT preparer FROM tuner_studies") == [(None,)]


def test_a_failing_preparation_lets_other_workers_try(
    studies: Studies, tmp_path: Path, trained: list[int]
) -> None:
    studies.create()
    black = IMAGES._replace(images=np.zeros((60, 32, 32, 1), np.uint8))
    files = files_of(tmp_path)
    for session in (studies.join(), studies.join()):
        with pytest.raises(InputError, match="all images have the same features"):
            shared_measures(spec_of("random"), black, files, session, print)
    measures(files, session=studies.join())
    assert len(trained) == 1
    assert studies.rows("SELECT preparer FROM tuner_studies") == [(None,)]


def test_a_stop_request_ends_the_wait_for_another_worker(
    studies: Studies, tmp_path: Path, trained: list[int]
) -> None:
    studies.create(lease_seconds=600)
    maker, waiting = studies.join(), studies.join()
    assert maker.may_prepare()
    stop = Stop()
    threading.Timer(0.2, stop.request).start()
    with pytest.raises(StoppedError):
        shared_measures(
            spec_of("classifier"), IMAGES, files_of(tmp_path), waiting, print, stop=stop
        )
    assert trained == []
