"""The two errors that a command reports in one line instead of a stack trace (configs.cli.run)."""

from __future__ import annotations

import dis
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("configs", "pipelines", "model", "eval", "train.py")


class UsageError(ValueError):
    """A mistake of the user: the message names the value, what is allowed, and where the value was set. Exit code 2."""


class CommandFailed(RuntimeError):
    """A command that cannot continue although its settings are right, such as a full disk. Exit code 1."""


def raised_by_us(error: ValueError) -> bool:
    """Whether a `raise` of ours made it: then its text is a message for the user, and otherwise a bug of ours."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    code = trace.tb_frame.f_code
    raised_in = Path(code.co_filename)
    is_ours = raised_in.is_relative_to(_ROOT) and raised_in.relative_to(_ROOT).parts[0] in _PACKAGES
    return is_ours and code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]
