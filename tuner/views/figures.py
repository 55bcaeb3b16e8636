"""The plots of a study, listed once for commands, notebooks, reports and the dashboard.

Also plots as files: self-contained HTML pages, and pictures drawn by a headless browser.
"""

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

from tuner.errors import InputError, TunerError
from tuner.hints import require
from tuner.spec.study import StudySpec
from tuner.study.records import TrialRecord

WIDTH = 900  # pixels
SCALE = 2  # PNG pixels per pixel, for print and high-resolution screens
TIMEOUT = 120.0  # seconds
SUFFIXES = (".png", ".svg", ".html")


class Plot(NamedTuple):
    """A plot of a study. Its module, and plotly with it, is imported when it is drawn."""

    function: str  # of a module in tuner.views: (StudySpec, trials) -> plotly figure
    section: str | None = None  # of the HTML report, whose template lists the sections
    dashboard: bool = False  # whether workers publish it to the Optuna Dashboard
    several: bool = False  # whether it is about several objectives

    def load(self) -> Any:
        """Import the function."""
        module, name = self.function.split(".")
        return getattr(import_module(f"tuner.views.{module}"), name)

    def draw(self, spec: StudySpec, trials: Sequence[TrialRecord]) -> Any:
        """The plotly figure."""
        return self.load()(spec, trials)


PLOTS = {
    "value": Plot("curves.value_against_epoch", "curves", dashboard=True),
    "loss-ratio": Plot("curves.loss_ratio_against_epoch", "curves", dashboard=True),
    "map": Plot("parameters.best_value_map", "parameters", dashboard=True),
    "parallel": Plot("parallel.parallel_coordinates", "parameters"),
    "time": Plot("curves.time_by_outcome", "cost", dashboard=True),
    "front": Plot("pareto.front_plot", "best", several=True),  # the dashboard has one itself
    "marginals": Plot("parameters.marginals"),
    "importances": Plot("parameters.importances"),
}


def as_page(figure: Any) -> bytes:
    """A plotly figure as a self-contained HTML page."""
    config = {"displaylogo": False, "responsive": True}
    text: str = figure.to_html(include_plotlyjs=True, div_id="figure", config=config)
    return text.encode()


def as_picture(figure: Any, kind: str) -> bytes:
    """A plotly figure as PNG or SVG, drawn by a local Chromium without network access.

    InputError if kaleido or the browser is missing, TunerError if the browser fails.
    """
    require("kaleido.errors", "report", f"--out: writing .{kind}", ", or write .html")
    import kaleido
    from kaleido.errors import BrowserClosedError, BrowserFailedError, ChromeNotFoundError

    options = {"format": kind, "width": WIDTH, "height": figure.layout.height}
    options |= {"scale": SCALE} if kind == "png" else {}
    how = {"mathjax": False, "timeout": TIMEOUT}
    try:
        data: Any = kaleido.calc_fig_sync(figure.to_dict(), opts=options, kopts=how)
    except ChromeNotFoundError:
        named = os.environ.get("BROWSER_PATH")
        where = f"at BROWSER_PATH = {named}" if named else "on the PATH"
        raise InputError(
            f"--out: writing .{kind} needs Chromium or Chrome, and there is none {where}; set "
            "BROWSER_PATH to its executable, or write .html"
        ) from None
    except (BrowserClosedError, BrowserFailedError, TimeoutError) as error:
        text = str(error).partition("\n")[0] or type(error).__name__
        raise TunerError(f"the browser that draws {kind} failed: {text}") from None
    return bytes(data)
