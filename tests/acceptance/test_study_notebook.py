"""docs/study.ipynb, run unchanged in a kernel that shows every warning."""

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat as _nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

NOTEBOOK = Path(__file__).parents[2] / "docs" / "study.ipynb"
nbformat: Any = _nbformat  # the functions called here are untyped
# Not as errors, which some libraries mistake for a missing package when they import another.
SHOW_WARNINGS = "import warnings\nwarnings.simplefilter('always')"
PLOTLY = "application/vnd.plotly.v1+json"


@pytest.fixture(scope="module")
def outputs(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]
) -> dict[str, Sequence[Any]]:
    """The outputs of each code cell by its last line."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SHOW_WARNINGS))
    # The kernel's own warnings must not become errors.
    kernel = environment | {"TMPDIR": str(folder), "IPYTHONDIR": str(folder / "ipython")}
    kernel.pop("PYTHONWARNINGS")
    client = NotebookClient(
        notebook, timeout=280, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=kernel)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return {cell.source.splitlines()[-1]: cell.outputs for cell in cells}


def shown(outputs: dict[str, Sequence[Any]], line: str, kind: str) -> Any:
    """The output of MIME type ``kind`` of the cell whose last line starts with ``line``."""
    [output] = next(found for last, found in outputs.items() if last.startswith(line))
    return output.data[kind]


def rows(html: str) -> int:
    return len(re.findall("<tr", html.partition("<tbody>")[2]))


def test_only_the_sweep_prints(outputs: dict[str, Sequence[Any]]) -> None:
    """It prints progress as plain lines; other cells show only the value of their last line."""
    [sweep] = [line for line in outputs if "tuner.sweep(" in line]
    assert {(o.output_type, o.name) for o in outputs[sweep]} == {("stream", "stdout")}
    lines = "".join(output.text for output in outputs[sweep]).splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d \w|warning: ", line) for line in lines), lines
    assert sum(" epoch 1/4 " in line for line in lines) == 4
    rest = [output for line, some in outputs.items() if line != sweep for output in some]
    assert {output.output_type for output in rest} == {"execute_result", "display_data"}


def test_the_study_and_its_best_trial(outputs: dict[str, Sequence[Any]]) -> None:
    summary = shown(outputs, "study", "text/html")
    assert "4 of 4 trials finished" in summary
    assert 1 <= rows(summary) <= 4
    line = shown(outputs, "study", "text/plain")
    found = re.fullmatch(r"<Study 'digits': .*, best FID \S+ by trial (\d)>", line)
    assert found
    best = shown(outputs, "study.best", "text/html")
    assert f"Trial {found[1]} of study digits" in best
    assert "generator kept" in best
    assert "'learning_rate': " in shown(outputs, "study.best.params", "text/plain")


def test_the_frames_have_their_rows(outputs: dict[str, Sequence[Any]]) -> None:
    trials = shown(outputs, "study.trials", "text/html")
    assert rows(trials) == 4
    assert all(name in trials for name in ("learning_rate", "beta1", "reason"))
    epochs = shown(outputs, "study.epochs.pivot", "text/html")
    assert rows(epochs) == 4


def test_plots_are_figures_with_data(outputs: dict[str, Sequence[Any]]) -> None:
    for line, kinds in (
        ("study.plot.value()", {"scatter"}),
        ("study.plot.map()", {"heatmap", "scatter"}),
        ("study.plot.trial()", {"scatter"}),
    ):
        data = shown(outputs, line, PLOTLY)["data"]
        assert {trace["type"] for trace in data} == kinds
        assert any(trace["x"] for trace in data)


def test_samples_are_pictures(outputs: dict[str, Sequence[Any]]) -> None:
    for line, size in (("study.best.grid(36)", (412, 412)), ("first.resize", (128, 128))):
        png = base64.b64decode(shown(outputs, line, "image/png"))
        with Image.open(io.BytesIO(png)) as picture:
            assert picture.size == size
            assert len(np.unique(np.asarray(picture))) > 20


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in cells] == [([], None)] * len(cells)
