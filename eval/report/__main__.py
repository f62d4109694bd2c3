"""Compare two evaluations: `python -m eval.report compare A B`

A and B are output folders of eval.run, or their metrics.json.

Metrics whose 95 % intervals do not overlap differ by more than the choice of items explains.
"""

import sys
from pathlib import Path

from configs.cli import run
from configs.errors import UsageError
from configs.schema import NoSettings


def main(config: NoSettings, action: str, a: str, b: str) -> None:  # noqa: ARG001
    """Print the comparison."""
    from eval.report.compare import format_comparison

    if action != "compare":
        raise UsageError(f"unknown action {action!r}, allowed is `compare A B`, on the command line")
    print(format_comparison(Path(a), Path(b)))


if __name__ == "__main__":
    sys.exit(run(NoSettings, __doc__, main, positional=("compare", "A", "B")))
