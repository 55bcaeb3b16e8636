"""``tuner study-file``: the file of an existing study."""

from pathlib import Path

import pytest
import study_databases
from builders import setting_tables, spec_of
from command_line import call
from hypothesis import given, settings
from study_databases import Studies, spec

from tuner.errors import InputError
from tuner.spec.loading import load_spec, parse_spec
from tuner.spec.study import StudySpec
from tuner.study.creation import create_study
from tuner.study.edits import edit
from tuner.views.study_toml import spec_toml

url, studies, sqlite = study_databases.url, study_databases.studies, study_databases.sqlite
FILES = sorted((Path(__file__).parents[2] / "studies").glob("*.toml"))


def stored(made: StudySpec) -> StudySpec:
    """The spec as another process reads it from the database."""
    return StudySpec.model_validate_json(made.model_dump_json())


def test_every_study_file_round_trips(studies: Studies, tmp_path: Path) -> None:
    assert FILES
    for path in FILES:
        store = create_study(studies.open(), load_spec(path, f"{path.stem}-again"))
        target = tmp_path / f"{path.stem}.toml"
        words = ["study-file", store.name, "--out", str(target), "--storage", studies.url]
        assert call(*words) == 0
        assert load_spec(target) == store.spec == load_spec(path, store.name)


@pytest.mark.parametrize(
    "toml",
    [
        "[study]\nepochs = 1",  # the default pruner, which would be refused if it were named
        "[study]\nvalue = 'last'\n[pruner]\nname = 'patient'\npatience = 1\n"
        "[pruner.wrapped]\nname = 'median'\n",
        "[study]\nvalue = 'last'\n[pruner]\nname = 'patient'\n"
        "[pruner.wrapped]\nname = 'percentile'\npercentile = 10.0\n",
        "[pruner]\nname = 'none'\n[sampler]\nname = 'random'\n",
        "[guard.loss_ratio]\nlow = 0.01\n[guard.d_auc]\nenabled = true\n",
        "[warm_start]\nstudy = 'old'\ntop = 2\n",
        "[trial]\nlearning_rate = { low = 1e-10, high = 1e-9 }\n",
    ],
)
def test_unusual_sections_round_trip(toml: str) -> None:
    made = stored(spec_of(toml))
    assert spec_of(spec_toml(made)) == made


@given(setting_tables())
@settings(max_examples=60)
def test_any_search_space_round_trips(table: dict[str, object]) -> None:
    try:
        made = stored(parse_spec({"trial": table}, "study.toml"))
    except InputError:
        return  # settings that contradict each other
    assert spec_of(spec_toml(made)) == made


def test_edits_are_in_the_file(
    sqlite: Studies, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNER_STORAGE", sqlite.url)
    store = sqlite.create()
    edit(store, ["trial.beta1={low=0.1,high=0.5}", "pictures.every=3"], "me")
    assert call("study-file", "s") == 0
    found = spec_of(capsys.readouterr().out)
    assert found == store.spec != spec()


def test_a_file_is_written_whole_or_not_at_all(
    sqlite: Studies, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sqlite.create()
    target = tmp_path / "s.toml"
    target.write_text("mine")
    words = ["study-file", "s", "--storage", sqlite.url, "--out"]
    assert call(*words, str(tmp_path / "s.json")) == 2
    assert "found '.json', expected .toml" in capsys.readouterr().err
    # No study file can say that a bound with a default is absent.
    changed = sqlite.store().spec.model_dump_json().replace('"low":0.001', '"low":null')
    sqlite.rows("UPDATE tuner_studies SET spec = :changed", changed=changed)
    assert call(*words, str(target)) == 2
    lines = capsys.readouterr().err
    assert lines == "tuner: the file of study 's' holds values that a study file can't express\n"
    assert target.read_text() == "mine"
