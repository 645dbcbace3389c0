"""Documents lead where they say, and name every flag, status and feature that there is."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from etacore import __version__
from etacore.cli.app import main
from etacore.schema import FEATURES
from etacore.status import Status

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.md")])
REFERENCE = (ROOT / "docs/reference.md").read_text()
LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(path: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """What a forge makes of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for word in command.list_commands(context):
            found = command.get_command(context, word)
            assert found is not None
            yield from commands(found, f"{name} {word}")
    else:
        yield name, command


COMMANDS = dict(commands(main, "etacore"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    astray = []
    for link in LINK.findall(prose(page)):
        if link.startswith(("http://", "https://")):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            astray.append(link)
    assert not astray


def test_links_are_found_at_all():
    assert len([link for page in PAGES for link in LINK.findall(prose(page))]) > 50


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("name", COMMANDS)
def test_the_reference_has_every_flag(name):
    flags = {flag for option in COMMANDS[name].params for flag in (*option.opts, *option.secondary_opts)}
    named = set(re.findall(r"--[a-z][a-z-]*", REFERENCE))
    assert {flag for flag in flags if flag.startswith("--")} <= named
    assert f"`{name}`" in REFERENCE or f"`{name.split()[-1]}" in REFERENCE


def test_the_reference_has_every_status_and_feature():
    named = set(re.findall(r"`(\w+)`", REFERENCE))
    assert {status.label for status in Status} <= named
    assert {feature.name for feature in FEATURES} <= named


def test_the_reference_has_every_variable_of_the_flags():
    variables = {
        option.envvar for command in COMMANDS.values() for option in command.params if isinstance(option.envvar, str)
    }
    assert variables
    assert variables <= set(re.findall(r"`([A-Z_]+)`", REFERENCE))


def test_the_citation_is_of_this_version():
    assert re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1] == __version__


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-workflows", ".github/workflows/*.yml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/[!c]*.yml"),
        ("github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
        ("citation-file-format", "CITATION.cff"),
    ],
)
def test_the_forge_can_read(schema, files):
    paths = sorted(ROOT.glob(files))
    assert paths
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_workflows_pin_what_they_run_and_may_only_read():
    for workflow in (ROOT / ".github/workflows").glob("*.yml"):
        text = workflow.read_text()
        uses = re.findall(r"uses: \S+@(\S+)", text)
        assert uses
        assert all(re.fullmatch(r"[0-9a-f]{40}", commit) for commit in uses), workflow.name
        assert re.search(r"^permissions:\n  contents: read$", text, re.MULTILINE), workflow.name
        assert text.count("runs-on:") == text.count("timeout-minutes:"), workflow.name
