"""Write docs/repository-map.md from the first line of every file: `python tests/support/repository_map.py`"""

import ast
import json
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MAP = ROOT / "docs/repository-map.md"
# Files that cannot say what they are.
DESCRIPTIONS = {
    "LICENSE": "MIT",
    "README.md": "start here",
    "requirements.lock": "every package at its exact version, with hashes",
    "requirements-build.lock": "the small torch-free set for building shards",
    ".gitignore": "files that git does not track",
    ".ci/run": "what every change must pass",
    "Makefile": "make demo, test, test-all, lint, bench, findings, lock",
    "pyproject.toml": "package, dependencies and tool settings",
    ".pre-commit-config.yaml": "checks before each commit",
    ".dockerignore": "files that are not sent to the Docker engine",
    ".github/ISSUE_TEMPLATE/bug.yml": "form for bugs",
    ".github/ISSUE_TEMPLATE/feature.yml": "form for features",
    ".github/pull_request_template.md": "checklist of a pull request",
    ".github/workflows/ci.yml": "hosted continuous integration: calls .ci/run",
    "CITATION.cff": "how to cite the method",
}
SKIPPED = ("tests/golden/", "model/pretrained/", "docs/images/", "docs/repository-map.md")


def tracked_files() -> list[str]:
    """Files of the repository, new ones too, as git lists them."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return sorted({path for path in listed if (ROOT / path).is_file() and not path.startswith(SKIPPED)})


def description(path: str) -> str:
    """The first sentence of a module docstring, or the first comment of any other file."""
    if path in DESCRIPTIONS:
        return DESCRIPTIONS[path]
    text = (ROOT / path).read_text()
    if path.endswith(".ipynb"):
        first = "".join(json.loads(text)["cells"][0]["source"]).partition("\n")[0].lstrip("# ")
    elif path.endswith(".py"):
        first = (ast.get_docstring(ast.parse(text)) or "").partition("\n\n")[0]
    elif path.endswith(".md"):
        first = text.partition("\n")[0].lstrip("# ")
    else:
        comments = re.findall(r"^(?:#(?!!)|/\*|\{#-?|<!--) ?(.*?)(?:\*/|#\}|-->)?$", text, re.MULTILINE)
        first = next((line for line in comments if line.strip()), "")
    first = " ".join(first.split())
    return re.split(r"(?<=[a-z)`])\. ", first + " ", maxsplit=1)[0].strip().removesuffix(".")


def render() -> str:
    """The map as Markdown."""
    lines = [
        "# Repository map",
        "",
        "Every file and its purpose, written by `python tests/support/repository_map.py` from their first lines.",
        "",
    ]
    folder = None
    for path in sorted(tracked_files(), key=lambda path: (path.rpartition("/")[0], path)):
        parent = path.rpartition("/")[0] or "."
        if parent != folder:
            folder = parent
            lines += [f"## `{folder}/`" if folder != "." else "## Top level", "", "| file | purpose |", "| --- | --- |"]
        text = description(path).replace("|", "\\|")
        lines.append(f"| `{path.rpartition('/')[2]}` | {text} |")
        lines.append("")
    # Blank lines only between tables.
    out = [line for n, line in enumerate(lines) if line or not (n + 1 < len(lines) and lines[n + 1].startswith("| `"))]
    return "\n".join(out).rstrip() + "\n"


if __name__ == "__main__":
    MAP.write_text(render())
