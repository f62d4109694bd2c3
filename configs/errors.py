"""The two errors that a command reports in one line instead of a stack trace (configs.cli.run)."""

import dis
from pathlib import Path

from configs.package_names import PACKAGES, ROOT


class UsageError(ValueError):
    """A mistake of the user: the message names the value, what is allowed, and where the value was set. Exit code 2."""


class CommandFailed(RuntimeError):
    """A command that cannot continue although its settings are valid, for example on a full disk. Exit code 1."""


def raised_by_us(error: ValueError) -> bool:
    """Whether a `raise` statement of this project raised the error, so that its text is a message for the user.

    Any other ValueError, such as one of `int()` or of a library, is a bug and keeps its stack trace.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    code = trace.tb_frame.f_code
    file = Path(code.co_filename)
    is_project_file = file.is_relative_to(ROOT) and file.relative_to(ROOT).parts[0] in (*PACKAGES, "train.py")
    return is_project_file and code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]
