"""A command's face: arguments into settings, `--help`, and exit codes 0 (yes), 1 (it ran, the answer is no), 2 (wrong use)."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from configs.errors import CommandFailed, UsageError, raised_by_us


def run(
    schema: type,
    doc: str,
    body: Callable[..., int | None],
    argv: Sequence[str] | None = None,
    positional: Sequence[str] = (),
) -> int:
    """Parse `key=value` arguments, run `body(config, *positional values)`, and return the exit code.

    Args:
        schema: dataclass from configs.schema.
        doc: the module docstring, shown by `--help`.
        body: the command; its return value is the exit code (None: 0).
        argv: arguments without the program name; None: sys.argv[1:].
        positional: names of required arguments given without `key=`, passed to body in order; one or more
            values for a last name that ends with `...`.

    Returns:
        0, 1 or 2. A UsageError prints one line on stderr and gives 2, a CommandFailed 1; Ctrl-C gives 130; a closed pipe 141.
    """
    from configs.load import format_help, load

    argv = list(sys.argv[1:] if argv is None else argv)
    if not sys.stderr.isatty():
        os.environ.setdefault(
            "TQDM_MININTERVAL", "30"
        )  # seconds: in a log each state of a progress bar is a line of its own
    if any(a in ("-h", "--help", "help") for a in argv):
        print((doc or "").strip() + "\n\n" + format_help(schema))
        return 0
    try:
        # A file may be called lr=1e-4.
        bare = [a for a in argv if "=" not in a or (positional and Path(a).exists())]
        named = [a for a in argv if a not in bare]
        variadic = bool(positional) and positional[-1].endswith("...")
        if len(bare) < len(positional) or (len(bare) > len(positional) and not variadic):
            wanted = " ".join(p.upper() for p in positional) or "only key=value arguments"
            raise UsageError(
                f"got {' '.join(map(repr, bare)) or 'nothing'}, wanted {wanted}, on the command line (--help lists the keys)"
            )
        return body(load(schema, named), *bare) or 0
    except ValueError as error:
        if not (isinstance(error, UsageError) or raised_by_us(error)):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except CommandFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run the same command again", file=sys.stderr)
        return 130
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        if error.errno not in _MACHINE_ERRORS:
            raise
        where = f": {error.filename}" if error.filename else ""
        print(
            f"error: {error.strerror}{where}; {_MACHINE_ERRORS[error.errno]}, then run the same command again",
            file=sys.stderr,
        )
        return 1


_MACHINE_ERRORS = {
    errno.ENOSPC: "make room or give another folder",
    errno.EDQUOT: "make room or give another folder",
    errno.EROFS: "give a folder that can be written",
    errno.EACCES: "ask for the right to use it or give another folder",
    errno.EEXIST: "a file is where a folder belongs: give another folder",
    errno.ENOTDIR: "a file is where a folder belongs: give another folder",
    errno.EISDIR: "a folder is where a file belongs: give another folder",
    errno.ENAMETOOLONG: "give a shorter name",
}
