"""The report as a page, and the study file in it."""

import subprocess
import tomllib
from pathlib import Path

import pytest
import workplace
from builders import spec_of
from hypothesis import given
from hypothesis import strategies as st
from processes import command
from workplace import Studies, run

from tuner.specfile import load_spec
from tuner.study.verdict import Complete
from tuner.views.toml import spec_toml

sqlite = workplace.sqlite
STUDIES = sorted((Path(__file__).parents[2] / "studies").glob("*.toml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_study_file_in_a_report_is_the_study(path: Path) -> None:
    spec = load_spec(path)
    assert spec_of(spec_toml(spec)) == spec


@given(st.text(min_size=1, max_size=20).filter(str.strip), st.text(max_size=20))
def test_any_text_in_a_study_file_comes_back(path: str, column: str) -> None:
    spec = spec_of("")
    data = spec.data.model_copy(update={"path": path, "labels": column})
    spec = spec.model_copy(update={"data": data})
    text = spec_toml(spec)
    found = tomllib.loads(text).get("data", {})
    assert found.get("path", spec_of("").data.path) == path
    assert found.get("labels", spec_of("").data.labels) == column


def test_without_scikit_learn_the_report_says_so(
    sqlite: Studies, tmp_path: Path, environment: dict[str, str]
) -> None:
    sqlite.make(trials=6)
    member = sqlite.join()
    for number in range(6):
        run(member, [float(number)], Complete())
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/sklearn.py").write_text("raise ImportError('none here')")
    mine = environment | {"PYTHONPATH": str(tmp_path / "broken"), "TUNER_STORAGE": sqlite.url}
    path = tmp_path / "report.html"
    for variables, said in ((mine, True), (mine | {"PYTHONPATH": ""}, False)):
        words = command("report", "s", "--out", str(path))  # a process that imports all anew
        subprocess.run(words, cwd=tmp_path, env=variables, check=True, timeout=100)
        text = path.read_text()
        assert ("Not computed: parameter importances: found no scikit-learn" in text) == said
        assert "Search space" in text
