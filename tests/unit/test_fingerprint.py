"""Fingerprints of measurements: digests and comparison."""

from tuner.study.fingerprint import digest, disagreements, incomparable

PARTS = {"data": "abc", "samples": "2000"}


def test_the_digest_ignores_the_order_of_parts() -> None:
    assert digest(PARTS) == digest(dict(reversed(PARTS.items())))
    assert digest(PARTS) != digest(PARTS | {"samples": "2001"})
    assert len(digest(PARTS)) == 12


def test_fingerprints_differ_only_in_shared_keys() -> None:
    assert disagreements(PARTS, PARTS) == []
    assert disagreements({"data": "xyz"}, PARTS) == ["found data xyz, expected abc"]
    assert disagreements({"weights": "w"}, PARTS) == []


def test_reason_that_studies_are_incomparable() -> None:
    assert incomparable([("a", PARTS), ("b", dict(PARTS)), ("c", dict(PARTS))]) is None
    other = PARTS | {"samples": "9"}
    reason = "samples is 2000 in study 'a' and 9 in 'c'"
    assert incomparable([("a", PARTS), ("b", PARTS), ("c", other)]) == reason
    more = PARTS | {"input": "clean"}
    assert (
        incomparable([("a", PARTS), ("b", more)]) == "input is none in study 'a' and clean in 'b'"
    )
    assert incomparable([("a", PARTS), ("b", {})]) == "study 'b' has measured nothing yet"
