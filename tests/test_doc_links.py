"""Links, anchors and file names in README and docs, and the sections of docs/reference.md that code refers to."""

import re
import subprocess
from pathlib import Path

import pytest
from paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GENERATED = ROOT / "docs/repository-map.md"


def _anchors(page: Path) -> set[str]:
    """The anchors that code hosts make of headings: lower case, without punctuation, with hyphens for spaces."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_an_anchor_that_exist(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in _anchors(file), f"{page.name}: {target}"


@pytest.mark.parametrize("page", [page for page in PAGES if page != GENERATED], ids=lambda page: page.name)
def test_every_file_that_is_named_in_code_spans_exists(page):
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in re.findall(r"`((?:[\w.]+/)*[\w-]+\.(?:py|css|lock|ya?ml|sh|Dockerfile))`", page.read_text()):
        assert any(path == name or path.endswith(f"/{name}") for path in tracked) or name == "config.yaml", (
            f"{page.name}: {name}"
        )


def test_every_page_of_the_documentation_is_linked_from_the_readme_or_from_a_page():
    linked = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in PAGES
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text())
        if not re.match(r"https?:", target)
    }
    assert {page for page in PAGES[1:] if page.resolve() not in linked} == set()


def test_every_section_that_a_source_line_names_exists_in_the_reference():
    headings = re.findall(r"^#+ ([\d.]+) ", (ROOT / "docs/reference.md").read_text(), re.MULTILINE)
    named = {
        number
        for folder in ("configs", "pipelines", "model", "eval")
        for path in (ROOT / folder).rglob("*.py")
        for number in re.findall(r"reference (\d+(?:\.\d+)?)", path.read_text())
    }
    assert len(named) > 5
    assert named <= set(headings)
