"""Compare with the reference on its golden cases: `python -m eval.parity DIR [DIR ...]`

A folder holds cases as NAME.safetensors: inputs `in.*`, weights `state.*`, expected outputs `out.*`, and the metadata
entry `case`, JSON with "kind" and "params". Prints the largest absolute difference of each case with the tolerance of
its kind; exit 1 when one exceeds it. The case of the released model needs released_checkpoint_keys.json in the same
folder, 3 GB of memory and 15 s.
"""

import sys
from pathlib import Path

from configs.cli import run
from configs.schema import NoSettings


def main(config: NoSettings, *folders: str) -> int:  # noqa: ARG001
    """Print the table; 0 when every case agrees."""
    from eval.parity.cases import check_folder

    outcomes = [outcome for folder in folders for outcome in check_folder(Path(folder))]
    print(f"{'kind':<22} {'case':<30} {'largest difference':>18} {'tolerance':>10}")
    for kind, case, difference, tolerance, verdict in ((*outcome, outcome.verdict) for outcome in outcomes):
        print(f"{kind:<22} {case:<30} {difference:>18.1e} {tolerance:>10.0e}  {verdict}")
    missed = sum(outcome.verdict == "MISS" for outcome in outcomes)
    print(f"\n{len(outcomes) - missed} agree, {missed} miss")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(run(NoSettings, __doc__, main, positional=("dir...",)))
