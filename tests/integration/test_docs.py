"""The documentation agrees with the code, and renders as a site."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import generate
import pytest
from generate import COMMANDS, SUBCOMMANDS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("name", generate.GENERATED)
def test_generated_parts_are_up_to_date(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == generate.page(name), "run make docs"


def test_shipped_schema_is_up_to_date() -> None:
    assert generate.SCHEMA.read_text() == generate.schema(), "run make docs"


def test_shipped_manifests_are_up_to_date() -> None:
    for name, text in generate.manifests().items():
        assert (generate.MANIFESTS / name).read_text() == text, "run make docs"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_name_commands_that_exist(path: Path) -> None:
    text = path.read_text()
    defined = re.findall(r"^def (\w+)\(", text, re.M)  # by the page itself, as an example
    assert _commands(text) <= {*COMMANDS, *defined}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_to_files(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_index_lists_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    pages = {path.name for path in PAGES[1:]} - {"index.md"}
    assert pages <= set(re.findall(r"\]\((\S+?)\)", index))


def test_diffs_of_contributing_apply() -> None:
    """The lines that a diff keeps or removes occur once in the file last named before it."""
    text, hunks = (ROOT / "docs" / "contributing.md").read_text(), 0
    for match in re.finditer(r"```diff\n(.*?)```", text, re.DOTALL):
        file = re.findall(r"`(tuner/\S+\.py)`", text[: match.start()])[-1]
        for hunk in match[1].split(" ...\n"):
            old = "".join(line[1:] for line in hunk.splitlines(True) if not line.startswith("+"))
            assert (ROOT / file).read_text().count(old) == 1, f"{file}:\n{old}"
            hunks += 1
    assert hunks >= 8


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A copy of the files that the site is rendered from."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    return tmp_path


def build(site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    return subprocess.run(command, cwd=site, capture_output=True, text=True)


def test_site_builds(site: Path) -> None:
    done = build(site)
    assert done.returncode == 0, done.stderr
    pages = {path.stem for path in (site / "site").glob("*.html")} - {"404"}
    assert pages == {path.stem for path in PAGES[1:]}


@pytest.mark.parametrize("target", ["absent.md", "metrics.md#absent"])
def test_site_has_no_broken_links(site: Path, target: str) -> None:
    page = site / "docs" / "index.md"
    page.write_text(page.read_text() + f"\n[link]({target})\n")
    done = build(site)
    assert done.returncode != 0
    assert f"'{target}'" in done.stderr


def test_security_names_tests_that_exist() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    file = ""
    for name, function in re.findall(
        r"`((?:unit|integration|acceptance)/\w+\.py)?(?:::(\w+))?`", text
    ):
        file = name or file
        source = (ROOT / "tests" / file).read_text()
        assert not function or f"def {function}(" in source, f"{file}::{function}"
    assert file, "no test is named"


def _commands(text: str) -> set[str]:
    return set(re.findall(r"\btuner ([a-z][a-z-]+)\b", "\n".join(_code(text))))


def _code(text: str) -> list[str]:
    return re.findall(r"```.*?\n(.*?)```", text, re.S) + re.findall(r"`(tuner [^`]*)`", text)


def test_named_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    code = "\n".join(line for path in PAGES for line in _code(path.read_text()))
    named = set(re.findall(r"\bmake ([a-z]+)\b", code))
    assert {"demo", "test"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.M), target


@pytest.mark.parametrize("name", sorted({**COMMANDS, **SUBCOMMANDS}))
def test_every_command_has_help_with_an_example(name: str) -> None:
    command = {**COMMANDS, **SUBCOMMANDS}[name]
    assert command.help
    assert re.search(rf"Example: tuner {name}\b", command.help)
