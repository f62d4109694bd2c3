"""Run golden cases of the reference and compare: `python -m eval.parity DIR`

DIR holds cases as NAME.safetensors: tensors `in.*` and weights `state.*` go in, tensors `out.*` must come out, and the metadata entry `case` is JSON
{"kind", "params"}. Prints the largest absolute difference of each case beside the tolerance of its kind; exit 1 on any miss. The case of the released
model's weights wants released_checkpoint_keys.json beside it, 3 GB of memory and 15 s.
"""

from __future__ import annotations

import sys
from pathlib import Path

from configs.cli import run
from configs.schema import ParityConfig


def main(config: ParityConfig, folder: str) -> int:  # noqa: ARG001
    """Print the table; 0 when every case agrees."""
    from eval.parity.cases import check_folder

    outcomes = check_folder(Path(folder))
    print(f"{'kind':<22} {'case':<30} {'largest difference':>18} {'tolerance':>10}")
    for outcome in outcomes:
        print(
            f"{outcome.kind:<22} {outcome.case:<30} {outcome.difference:>18.1e} {outcome.tolerance:>10.0e}  {outcome.verdict}"
        )
    missed = sum(outcome.verdict == "MISS" for outcome in outcomes)
    print(f"\n{len(outcomes) - missed} agree, {missed} miss")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(run(ParityConfig, __doc__, main, positional=("dir",)))
