"""The dashboard and the report of a swept study, on SQLite and Postgres, in a real browser."""

import json
import os
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import browsers
import pytest
from browsers import Browser, Page
from postgres import PASSWORD, Postgres, free_port
from processes import STUDY, Running, run

from tuner.study.database import Database
from tuner.study.records import ranked
from tuner.study.store import StudyStore

browser = browsers.browser
on_sqlite = pytest.mark.parametrize("swept", ["sqlite"], indirect=True)
KINDS = ("value", "loss-ratio", "map", "parallel", "time", "marginals", "importances", "trial")


class Swept(NamedTuple):
    """A folder with the tiny study, swept to its end, and its database."""

    folder: Path
    url: str
    environment: dict[str, str]

    def store(self) -> StudyStore:
        return StudyStore(Database(self.url), "tiny")

    def tuner(self, *words: str) -> Any:
        return run(self.folder, self.environment, *words)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def swept(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    digits: Path,
    environment: dict[str, str],
) -> Swept:
    folder = tmp_path_factory.mktemp("pages")
    url = f"sqlite:///{folder}/studies.db"
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        url = server.new_database()
    made = Swept(folder, url, environment | {"TUNER_STORAGE": url})
    (folder / "tiny.toml").write_text(STUDY.format(digits=digits))
    done = made.tuner("sweep", "tiny.toml")
    assert (done.returncode, done.stderr) == (0, "")
    return made


@pytest.fixture(scope="module")
def dashboard(swept: Swept) -> Iterator[str]:
    """The URL of the dashboard on the study's database."""
    port = str(free_port())
    with Running(swept.folder, swept.environment, "dashboard", "--port", port) as server:
        server.wait_for(f"http://127.0.0.1:{port}/")
        yield f"http://127.0.0.1:{port}"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert PASSWORD not in server.text + server.errors
        assert "Traceback" not in server.errors


def text_of(page: Page) -> str:
    return str(page.evaluate("() => document.body.innerText"))


def plots(page: Page) -> list[dict[str, Any]]:
    """The plots of the page: title, traces and number of drawn SVGs."""
    script = """() => Array.from(document.querySelectorAll('.js-plotly-plot'), plot => ({
        title: plot.layout?.title?.text ?? '', traces: plot.data?.map(d => d.name ?? ''),
        drawn: plot.querySelectorAll('svg').length}))"""
    found: list[dict[str, Any]] = page.evaluate(script)
    return found


def test_the_dashboard_lists_and_plots_the_study(
    swept: Swept, dashboard: str, browser: Browser
) -> None:
    with browser.page() as page:
        page.goto(f"{dashboard}/")
        page.get_by_text("tiny", exact=False).first.wait_for()
        page.goto(f"{dashboard}/dashboard/studies/{swept.store().study_id}")
        page.get_by_text("Intermediate values").wait_for()
        page.settle()
        found = plots(page)
        by_title = {plot["title"]: plot for plot in found}
        for title in ("FID against epoch", "Loss ratio against epoch", "Device time by outcome"):
            assert by_title[title]["drawn"] > 0, by_title.keys()
        assert any("Best FID by learning rate" in title for title in by_title)
        drawn = {re.sub("[^0-9]", "", name) for plot in found for name in plot["traces"] or ()}
        assert {str(number) for number in range(4)} <= drawn, found
        assert page.problems == []


def test_the_dashboard_shows_a_trial_with_its_pictures(
    swept: Swept, dashboard: str, browser: Browser
) -> None:
    store = swept.store()
    with browser.page() as page:
        for trial in store.trials():
            page.goto("about:blank")  # nothing of the previous trial is left to be waited for
            page.goto(
                f"{dashboard}/dashboard/studies/{store.study_id}/trials?numbers={trial.number}"
            )
            page.get_by_text("To train it again with the same random numbers").wait_for()
            page.settle()
            text = text_of(page)
            assert f"after epoch {len(trial.reports)} of 3: {trial.reason}" in text
            assert f"tuner retry tiny {trial.number} --exactly" in text
            grids = [f"samples-epoch-{report.epoch:06d}.png" for report in trial.reports]
            for name in (*grids, "curves.svg"):
                assert name in re.sub(r"\s", "", text), name  # long names are wrapped
            # Each is an artifact; the best grid and the curves are also in the note.
            count = len(grids) + 1 + 2
            page.wait_for_function(f"() => document.images.length >= {count}")
            page.settle()
            widths = page.image_widths()
            assert len(widths) == count
            assert min(widths) > 100
            assert page.problems == []


def test_the_studys_note_contains_its_file(swept: Swept, dashboard: str, browser: Browser) -> None:
    with browser.page() as page:
        page.goto(f"{dashboard}/dashboard/studies/{swept.store().study_id}/note")
        page.get_by_text("A GAN hyperparameter search by tuner").wait_for()
        assert 'name = "tiny"' in text_of(page)
        assert page.problems == []


def test_the_page_explains_why_renaming_and_deleting_are_refused(
    swept: Swept, dashboard: str, browser: Browser
) -> None:
    with browser.page() as page:
        page.goto(f"{dashboard}/")
        page.get_by_label("rename study").click()
        page.get_by_role("textbox").last.fill("better-name")
        page.get_by_role("dialog").get_by_role("button", name="rename").click()
        page.get_by_role("alert").filter(has_text="study 'tiny' can't be renamed").click()
        page.get_by_label("delete study").click()
        page.get_by_role("dialog").get_by_role("button", name="yes").click()
        page.get_by_role("alert").filter(has_text="use tuner delete").wait_for()
    assert swept.store().trials()


def request(url: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    converted = {key.replace("_", "-"): value for key, value in headers.items()}
    prepared = urllib.request.Request(url, method=method, headers=converted)
    try:
        with urllib.request.urlopen(prepared, timeout=20) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_requests_from_other_sites_are_refused(swept: Swept, dashboard: str) -> None:
    study = f"{dashboard}/api/studies/{swept.store().study_id}"
    status, body = request(study, "DELETE", Sec_Fetch_Site="cross-site")
    assert (status, json.loads(body)) == (
        403,
        {"reason": "requests from another site's page are refused"},
    )
    assert request(study, Host="evil.example")[0] == 403
    assert request(study, Host="localhost:1")[0] == 200
    assert request(study, "DELETE", Origin="http://evil.example")[0] == 403
    assert (
        request(study, Origin="http://evil.example")[0] == 403
    )  # a GET could otherwise read files
    assert swept.store().trials()


def test_a_missing_picture_is_a_short_response(swept: Swept, dashboard: str) -> None:
    store = swept.store()
    [*_, trial] = store.study.get_trials()
    key = next(k for k in trial.system_attrs if k.startswith("artifacts:"))
    name = json.loads(trial.system_attrs[key])["filename"]
    path = next(swept.folder.rglob(f"pictures/trial-{trial.number:05d}/{name}"))
    data = path.read_bytes()
    address = f"{dashboard}/artifacts/{store.study_id}/{trial._trial_id}/{key.partition(':')[2]}"
    assert request(address) == (200, data)
    path.unlink()
    status, body = request(address)
    path.write_bytes(data)
    assert status == 404
    assert json.loads(body)["reason"].startswith("artifacts: there is no file of artifact ")


def test_files_can_be_added_and_deleted(swept: Swept, dashboard: str) -> None:
    study_id = swept.store().study_id
    body = json.dumps({"file": "data:text/plain;base64,aGVsbG8=", "filename": "a.txt"}).encode()
    upload = urllib.request.Request(
        f"{dashboard}/api/artifacts/{study_id}", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(upload, timeout=20) as response:
        artifact_id = json.load(response)["artifact_id"]
    address = f"{dashboard}/artifacts/{study_id}/{artifact_id}"
    assert request(address) == (200, b"hello")
    assert request(f"{dashboard}/api/artifacts/{study_id}/{artifact_id}", "DELETE")[0] == 204
    assert request(address)[0] == 404


def test_a_taken_port_is_reported(swept: Swept, dashboard: str) -> None:
    port = dashboard.rpartition(":")[2]
    done = swept.tuner("dashboard", "--port", port)
    assert done.returncode == 2
    assert done.stderr == (
        f"tuner: --port: can't use {port} on 127.0.0.1: Address already in use; "
        "choose a free port\n"
    )


def test_a_public_dashboard_prints_a_warning(swept: Swept) -> None:
    words = ("dashboard", "--host", "0.0.0.0", "--port", "0")
    warning = "can be reached from other machines, and the dashboard has no login"
    for options in ((), ("--behind-proxy",)):
        with Running(swept.folder, swept.environment, *words, *options) as server:
            server.wait_for("http://0.0.0.0:")
            server.signal(signal.SIGINT)
            assert server.wait() == 0
            assert server.errors == "" if options else warning in server.errors


@pytest.fixture(scope="module")
def report(swept: Swept) -> Path:
    path = swept.folder / "report.html"
    done = swept.tuner("report", "tiny", "--out", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    return path


@on_sqlite
@pytest.mark.parametrize("width", [390, 1280])
def test_the_report_is_self_contained(
    swept: Swept, browser: Browser, report: Path, width: int
) -> None:
    trials = swept.store().trials()
    with browser.page(width=width) as page:
        page.goto(report.as_uri())
        page.settle()
        assert page.problems == []
        assert page.overflow == 0
        complete = [trial for trial in trials if trial.state == "COMPLETE"]
        baselines = [trial for trial in ranked(trials) if trial.baseline]
        shown = {trial.number: trial for trial in (*ranked(trials)[:3], *baselines)}
        widths = page.image_widths()
        assert len(widths) == 1 + sum(len(trial.reports) for trial in shown.values())
        assert min(widths) > 100
        assert len([plot for plot in plots(page) if plot["drawn"]]) >= 6
        text = text_of(page)
        sections = "Best trials", "Pruned and failed trials", "All trials", "Cost"
        for words in (*sections, "Fingerprint", "jax"):
            assert words in text, words
        for trial in complete[:1]:
            assert trial.value is not None
            assert f"{trial.value:.4g}" in text
    assert not re.search(r'(src|href)="https?://', report.read_text()[:20_000])


@on_sqlite
def test_the_report_answers_to_sliders_and_clicks(
    swept: Swept, report: Path, browser: Browser
) -> None:
    best = ranked(swept.store().trials())[0]
    numbers = [trial.number for trial in swept.store().trials()]
    with browser.page() as page:
        page.goto(report.as_uri())
        page.settle()
        figure = page.locator(f'figure[data-trial="{best.number}"]')
        image, slider = figure.locator("img:visible"), figure.locator("input")
        chosen = best.best_epoch("fid")
        assert image.get_attribute("data-label") == f"epoch {chosen} (best)"
        slider.fill("0" if chosen != 1 else "1")
        other = 1 if chosen != 1 else 2
        assert image.get_attribute("data-epoch") == str(other)
        assert figure.locator("output").inner_text() == f"epoch {other}"
        heading = page.locator("#trials th", has_text="trial").first
        for order in (numbers, numbers[::-1]):
            heading.click()
            cells = page.locator("#trials tbody td:first-child").all_inner_texts()
            assert list(map(int, cells)) == order
        assert page.problems == []


@on_sqlite
def test_the_report_prints_to_pdf(report: Path, browser: Browser) -> None:
    with browser.page() as page:
        page.goto(report.as_uri())
        page.settle()
        data: bytes = page.pdf(format="A4")
        assert data.startswith(b"%PDF")
        assert 2 <= len(re.findall(rb"/Type\s*/Page\b", data)) <= 20
        assert page.problems == []


@on_sqlite
@pytest.mark.parametrize("kind", KINDS)
def test_each_plot_opens_as_a_page(
    swept: Swept, browser: Browser, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "plot.html"
    done = swept.tuner("plot", "tiny", "--kind", kind, "--out", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    with browser.page() as page:
        page.goto(path.as_uri())
        page.settle()
        [plot] = plots(page)
        assert plot["drawn"] > 0
        assert page.problems == []


@on_sqlite
def test_plots_are_written_as_images(swept: Swept, browser: Browser, tmp_path: Path) -> None:
    program = browsers.program()
    environment = swept.environment | {"BROWSER_PATH": str(program)}
    for suffix, start in ((".png", b"\x89PNG"), (".svg", b"<svg")):
        path = tmp_path / f"value{suffix}"
        done = run(swept.folder, environment, "plot", "tiny", "--kind", "value", "--out", str(path))
        assert (done.returncode, done.stderr) == (0, "")
        assert path.read_bytes().startswith(start)
        assert path.stat().st_size > 5000


@on_sqlite
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("plot", "tiny", "--kind", "value", "--out", "a.jpg"), "--out: a.jpg: found '.jpg', "),
        (("report", "tiny", "--out", "a"), "--out: a: found no suffix, expected .html"),
        (("report", "tiny", "--out", "no/a.html"), "--out: no/a.html can't be written: No such"),
        (("report", "none", "--out", "a.html"), "no study 'none', expected one of: tiny"),
        (
            ("plot", "tiny", "--kind", "trial", "--trial", "9", "--out", "a.html"),
            "has no trial 9",
        ),
    ],
)
def test_wrong_report_and_plot_arguments_are_refused(
    swept: Swept, words: tuple[str, ...], line: str
) -> None:
    done = swept.tuner(*words)
    assert done.returncode == 2
    assert line in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert os.listdir(swept.folder).count("a.html") == 0


@on_sqlite
def test_a_missing_browser_is_reported(swept: Swept) -> None:
    environment = swept.environment | {"BROWSER_PATH": "/nowhere/chromium"}
    words = ("plot", "tiny", "--kind", "value", "--out", "a.png")
    done = run(swept.folder, environment, *words)
    assert done.returncode == 2
    assert (
        "needs Chromium or Chrome, and there is none at BROWSER_PATH = /nowhere/chromium"
        in done.stderr
    )
