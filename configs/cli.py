"""Entry point of every command: parses arguments, prints `--help`, and maps errors to exit codes.

Exit codes: 0 success, 1 the command ran and failed a check, 2 invalid arguments.
"""

import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from configs.errors import CommandFailed, UsageError, raised_by_us
from configs.package_names import find_shadowed_package


def run(
    schema: type,
    doc: str | None,
    body: Callable[..., int | None],
    argv: Sequence[str] | None = None,
    positional: Sequence[str] = (),
) -> int:
    """Parse `key=value` arguments, run `body(config, *positional values)`, and return the exit code.

    Args:
        schema: dataclass of configs.schema.
        doc: the module docstring, shown by `--help`.
        body: the command; its return value is the exit code (None: 0).
        argv: arguments without the program name; None: sys.argv[1:].
        positional: names of required arguments given without `key=`, passed to body in order.

    Returns:
        The exit code of `body`. UsageError: one line on stderr and 2. CommandFailed: one line on stderr and 1.
        Ctrl-C: 130. Closed pipe: 141.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # the names of files need not be UTF-8
    if any(a in ("-h", "--help", "help") for a in argv):
        from configs.help import format_help

        print((doc or "").strip() + "\n\n" + format_help(schema))
        return 0
    if not sys.stderr.isatty():
        # Seconds. In a log, each update of a progress bar is a line of its own.
        os.environ.setdefault("TQDM_MININTERVAL", "30")
    try:
        if message := find_shadowed_package():
            raise UsageError(message)
        return body(*_parse(schema, argv, positional)) or 0
    except ValueError as error:
        if not (isinstance(error, UsageError) or raised_by_us(error)):
            raise
        return _report(str(error), 2)
    except CommandFailed as error:
        return _report(str(error), 1)
    except KeyboardInterrupt:
        print("interrupted: run the same command again", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in _SYSTEM_ERRORS:
            raise
        file = f": {error.filename}" if error.filename else ""
        return _report(f"{error.strerror}{file}; {_SYSTEM_ERRORS[error.errno]}", 1)


def _parse(schema: type, argv: Sequence[str], positional: Sequence[str]) -> list[Any]:
    """The settings and the values of the positional arguments."""
    from configs.load import load

    argv = _as_key_value(argv)
    # A file may be called lr=1e-4.
    bare = [a for a in argv if "=" not in a or (positional and Path(a).exists())]
    variadic = bool(positional) and positional[-1].endswith("...")
    if len(bare) < len(positional) or (len(bare) > len(positional) and not variadic):
        expected = " ".join(p.upper() for p in positional) or "only key=value arguments"
        raise UsageError(
            f"got {' '.join(map(repr, bare)) or 'nothing'}, expected {expected}, on the command line "
            "(--help lists the keys)"
        )
    return [load(schema, [a for a in argv if a not in bare]), *bare]


def _as_key_value(argv: Sequence[str]) -> list[str]:
    """Arguments in the style of other programs as `key=value`: --key=value, --config FILE, and the path of a YAML file.

    Raises:
        UsageError: any other option.
    """
    words, arguments = list(argv), list[str]()
    while words:
        word = words.pop(0)
        key = word.removeprefix("--")
        if word.startswith("-") and "=" not in word:
            if key not in ("config", "-c") or not words:
                value = f"{words[0]!r}" if words else "VALUE"
                raise UsageError(
                    f"{word}: settings are written {key.lstrip('-')}={value.strip(chr(39))}, without dashes"
                )
            word = f"config={words.pop(0)}"
        elif word.startswith("--"):
            word = key
        elif "=" not in word and Path(word).suffix in (".yaml", ".yml"):
            word = f"config={word}"
        arguments.append(word)
    return arguments


def _report(message: str, exit_code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return exit_code


_SYSTEM_ERRORS = {
    errno.ENOSPC: "free some space or choose another folder, then run the same command again",
    errno.EDQUOT: "free some space or choose another folder, then run the same command again",
    errno.EROFS: "choose a writable folder",
    errno.EACCES: "choose another folder",
    errno.EPERM: "choose another folder",
    errno.ENOENT: "check the path, or choose another folder",
    errno.EEXIST: "a file has the name of a folder: choose another folder",
    errno.ENOTDIR: "a file has the name of a folder: choose another folder",
    errno.EISDIR: "a folder has the name of a file: choose another folder",
    errno.ENAMETOOLONG: "choose a shorter name",
}
