"""The templates and data files of the reports, which lie in this folder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from configs.errors import CommandFailed

FOLDER = Path(__file__).parent
FILES = ("report.html.j2", "compare.html.j2", "report.md.j2", "report.css", "published_results.yaml")


def read_file(name: str) -> str:
    """The text of a file of this folder.

    Raises:
        CommandFailed: the file is missing.
    """
    try:
        return (FOLDER / name).read_text()
    except OSError as error:
        raise CommandFailed(
            f"{FOLDER / name}: {error.strerror}; the installation is incomplete, install the package again"
        ) from None


def load_template(name: str, autoescape: bool, filters: Mapping[str, Callable[..., Any]] | None = None) -> Template:
    """A jinja2 template of this folder; an undefined variable in it is an error.

    Args:
        autoescape: whether text is escaped for HTML.
        filters: added to those of jinja2.

    Raises:
        CommandFailed: the file is missing.
    """
    environment = Environment(autoescape=autoescape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(filters or {})
    return environment.from_string(read_file(name))
