"""Run a script in several CPU processes."""

import os
import subprocess
import sys
from pathlib import Path

from paths import ROOT


def run_ranks(script: str, folder: Path, ranks: int, *arguments: str) -> subprocess.CompletedProcess:
    """Run a script in several processes of torch.distributed, with tests/support on its path.

    Args:
        script: its text; written to a file in `folder`.
        ranks: number of processes; 0: one process without torch.distributed.
        arguments: of the script.
    """
    (folder / "ranks.py").write_text(script)
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks else []
    done = subprocess.run(
        [sys.executable, *launch, str(folder / "ranks.py"), *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/support'}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=290,
    )
    assert done.returncode == 0, done.stderr
    return done
