"""Detects modules of the user that are imported in place of our packages, such as a `model.py` beside a script."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

# The folder that holds the packages: the repository, or site-packages.
ROOT = Path(__file__).resolve().parents[1]
# `train` is not in this list because nothing imports it: a train.py of the user does no harm.
PACKAGES = ("configs", "pipelines", "model", "eval")


def find_shadowed_package(names: Sequence[str] = PACKAGES) -> str | None:
    """A message about the first of these packages that Python would import from somewhere else; None if there is none.

    Nothing is imported: a package that is not imported yet is looked up along `sys.path`.
    """
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec and spec.origin and Path(spec.origin).resolve() != ROOT / name / "__init__.py":
            return (
                f"{name} would be imported from {spec.origin}, not from {ROOT}: rename it or run from another folder "
                f"(names used: {', '.join(PACKAGES)})"
            )
    return None


def require_own_packages(*names: str) -> None:
    """Raise ImportError if one of these packages is shadowed; for the `__init__` of a package and what it imports.

    Does nothing while `python -m` locates a command, whose `sys.argv[0]` is then "-m": `configs.cli.run` reports it.
    """
    if sys.argv[:1] != ["-m"] and (message := find_shadowed_package(names)):
        raise ImportError(message)
