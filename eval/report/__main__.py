"""Compare two evaluations: `python -m eval.report compare A B [html=PAGE.html]`

A and B are output folders of eval.run, or their metrics.json.

Metrics whose 95 % intervals do not overlap differ by more than the choice of items explains.
"""

import sys
from pathlib import Path

from configs.cli import run
from configs.errors import UsageError
from configs.schema import CompareConfig


def main(config: CompareConfig, action: str, a: str, b: str) -> None:
    """Print the comparison, and write it as a page if asked."""
    from configs.atomic_write import atomic_open
    from eval.report.compare import compare, format_comparison, render_comparison

    if action != "compare":
        raise UsageError(f"unknown action {action!r}, allowed is `compare A B`, on the command line")
    if config.html and Path(config.html).suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"html={config.html}: give the name of the page to write, such as compare.html")
    comparison = compare(Path(a), Path(b))
    if config.html:
        with atomic_open(Path(config.html)) as file:
            file.write(render_comparison(comparison).encode())
    print(format_comparison(comparison))


if __name__ == "__main__":
    sys.exit(run(CompareConfig, __doc__, main, positional=("compare", "A", "B")))
