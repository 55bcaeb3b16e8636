"""What a study's workers measure with: made by one of them, read by all, byte for byte."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import workplace
from workplace import Studies

from tuner.data import ImageSet
from tuner.errors import InputError
from tuner.metrics import features
from tuner.metrics.features import Extractor, train_classifier
from tuner.run import sharing
from tuner.run.artifacts import decode
from tuner.run.files import StudyFiles
from tuner.run.sharing import EXTRACTOR, REFERENCE, Measures, shared_measures
from tuner.run.stores import open_store
from tuner.spec import StudySpec
from tuner.specfile import parse_spec
from tuner.study.membership import Membership

url, studies = workplace.url, workplace.studies


def spec_of(kind: str) -> StudySpec:
    return parse_spec({"metrics": {"features": kind, "samples": 30}}, "test")


def image_set(seed: int = 0) -> ImageSet:
    """Sixty, of two kinds that are easy to tell."""
    labels = np.arange(60) % 2
    images = np.random.default_rng(seed).integers(0, 100, (60, 32, 32, 1), np.uint8)
    images[labels == 1] += 100
    return ImageSet(images, labels, f"fingerprint-{seed}")


IMAGES = image_set()


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Training is short, and counted."""
    count: list[int] = []

    def train(*args: np.ndarray) -> Extractor:
        count.append(1)
        return train_classifier(*args)

    monkeypatch.setattr(features, "EPOCHS", 1)
    monkeypatch.setattr(sharing, "PAUSE", 0.02)
    monkeypatch.setattr(sharing, "train_classifier", train)
    return count


def files_of(folder: Path, study: str = "study") -> StudyFiles:
    return StudyFiles(open_store(str(folder)), study).begin("a token")


def measures(
    files: StudyFiles, kind: str = "classifier", member: Membership | None = None
) -> Measures:
    return shared_measures(spec_of(kind), IMAGES, files, member, print)


def content(files: StudyFiles) -> list[Any]:
    """All that the two files say, to the bit. (What comes first in a file may differ.)"""
    found = []
    for name in (EXTRACTOR, REFERENCE):
        arrays, about = decode(files.read(name) or b"", name)
        found.append((about, {key: x.tobytes() for key, x in arrays.items()}))
    return found


def test_they_are_made_once_and_read_by_all(tmp_path: Path, trained: list[int]) -> None:
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


@pytest.mark.parametrize("damage", [b"torn", b"", None])
@pytest.mark.parametrize("name", [EXTRACTOR, REFERENCE])
def test_what_is_damaged_is_made_anew_and_the_same(
    name: str, damage: bytes | None, tmp_path: Path, trained: list[int]
) -> None:
    files = files_of(tmp_path)
    measures(files)
    made = content(files)
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
    measures(files)
    assert content(files) == made  # on the same machine
    assert len(trained) == 2


def test_a_studys_own_classifier_goes_before_the_shared_one(
    tmp_path: Path, trained: list[int]
) -> None:
    """Another machine may have put its own there meanwhile; this study keeps to its numbers."""
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


def test_images_that_are_all_alike_are_refused(tmp_path: Path, trained: list[int]) -> None:
    black = IMAGES._replace(images=np.zeros((60, 32, 32, 1), np.uint8))
    files = files_of(tmp_path)
    with pytest.raises(InputError, match="images that all look alike"):
        shared_measures(spec_of("random"), black, files, None, print)
    assert [files.read(name) for name in (EXTRACTOR, REFERENCE)] == [None, None]


def test_workers_that_begin_at_once_train_once(
    studies: Studies, tmp_path: Path, trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    studies.make()
    members = [studies.join() for _ in range(3)]
    said: list[str] = []
    waiting = threading.Event()

    def announce(text: str) -> None:
        said.append(text)
        if len(said) == 3:
            waiting.set()

    make = sharing._make

    def slowly(*args: Any) -> None:
        assert waiting.wait(20)  # until the others have said that they wait
        make(*args)

    monkeypatch.setattr(sharing, "_make", slowly)

    def join(member: Membership) -> Measures:
        return shared_measures(spec_of("classifier"), IMAGES, files_of(tmp_path), member, announce)

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(join, members))
    assert len({measure.extractor.digest for measure in found}) == 1
    assert len(trained) == 1
    wait = "waiting for another worker to prepare the feature extractor"
    assert sorted(said) == [
        "preparing the feature extractor and the real images' statistics",
        wait,
        wait,
    ]


def test_what_was_made_meanwhile_is_not_made_again(
    studies: Studies, tmp_path: Path, trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker ended its work between this one's look and its turn. Made anew, on another
    machine, they could differ from those that others have read."""
    studies.make()
    member, files = studies.join(), files_of(tmp_path)
    ask, make, made = member.may_prepare, sharing._make, list[int]()

    def ask_late() -> bool:
        measures(files)
        return ask()

    def count(*args: Any) -> None:
        made.append(1)
        make(*args)

    monkeypatch.setattr(member, "may_prepare", ask_late)
    monkeypatch.setattr(sharing, "_make", count)
    measures(files, member=member)
    assert len(made) == 1
    assert studies.rows("SELECT preparer FROM tuner_studies") == [(None,)]


def test_who_fails_to_make_them_lets_others_try(
    studies: Studies, tmp_path: Path, trained: list[int]
) -> None:
    studies.make()
    unlabelled = IMAGES._replace(labels=None)
    files = files_of(tmp_path)
    for member in (studies.join(), studies.join()):
        with pytest.raises(InputError, match="images without labels"):
            shared_measures(spec_of("classifier"), unlabelled, files, member, print)
    measures(files, member=studies.join())
    assert len(trained) == 1
    assert studies.rows("SELECT preparer FROM tuner_studies") == [(None,)]
