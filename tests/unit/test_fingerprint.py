"""What a study's numbers depend on, compared."""

from tuner.study.fingerprint import digest, disagreements, incomparable

PARTS = {"data": "abc", "samples": "2000"}


def test_a_digest_is_of_the_parts_alone() -> None:
    assert digest(PARTS) == digest(dict(reversed(PARTS.items())))
    assert digest(PARTS) != digest(PARTS | {"samples": "2001"})
    assert len(digest(PARTS)) == 12


def test_disagreements_are_about_what_both_have() -> None:
    assert disagreements(PARTS, PARTS) == []
    assert disagreements({"data": "xyz"}, PARTS) == ["found data xyz, expected abc"]
    assert disagreements({"weights": "w"}, PARTS) == []


def test_why_studies_can_not_be_compared() -> None:
    assert incomparable([("a", PARTS), ("b", dict(PARTS)), ("c", dict(PARTS))]) is None
    other = PARTS | {"samples": "9"}
    why = "samples is 2000 in study 'a' and 9 in 'c'"
    assert incomparable([("a", PARTS), ("b", PARTS), ("c", other)]) == why
    more = PARTS | {"input": "clean"}
    assert (
        incomparable([("a", PARTS), ("b", more)]) == "input is none in study 'a' and clean in 'b'"
    )
    assert incomparable([("a", PARTS), ("b", {})]) == "study 'b' has measured nothing yet"
