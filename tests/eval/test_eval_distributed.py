"""Items distributed over ranks: all results on every rank, in order; all ranks stop or fail together."""

import json
import os
import subprocess
import sys

import pytest
import torch
from paths import ROOT
from tiny_evaluation import write_evaluation

from eval.distributed import Interrupted, distributed_map, interruptible


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return write_evaluation(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize(("count", "batch_size"), [(1, 4), (8, 4), (9, 4), (3, 1)])
def test_single_process_computes_all_batches_in_order(count, batch_size):
    seen = []

    def work(rows):
        seen.append(list(rows))
        return {"double": torch.tensor(rows)[:, None] * 2, "even": torch.tensor([row % 2 == 0 for row in rows])}

    columns = distributed_map(count, batch_size, work)
    assert list(columns) == ["double", "even"]
    assert columns["double"][:, 0].tolist() == [2 * n for n in range(count)]
    assert columns["even"].tolist() == [n % 2 == 0 for n in range(count)]
    assert [row for rows in seen for row in rows] == list(range(count)) and max(map(len, seen)) <= batch_size


def test_stop_reason_applies_only_inside_the_block():
    with pytest.raises(Interrupted), interruptible(lambda: True):
        distributed_map(1, 1, lambda rows: {"row": torch.tensor(rows)})
    distributed_map(1, 1, lambda rows: {"row": torch.tensor(rows)})


RANKS = """
import json, sys
from pathlib import Path
import torch
from accelerate import PartialState
from torch import distributed
from tiny_training import tiny_config, tiny_model
from configs.errors import CommandFailed
from eval.periodic import PeriodicEvaluation
from eval.distributed import Interrupted, distributed_map, interruptible
from model.training.tracking import RunLogger

state = PartialState(cpu=True)
rank, ranks = state.process_index, state.num_processes
settings, out = sys.argv[1], Path(sys.argv[2])
results = {}
for count in (1, 2, 7, 12):
    work = lambda rows: {
        "value": torch.tensor(rows, dtype=torch.float64), "flag": torch.tensor([row % 3 == 0 for row in rows])
    }
    columns = distributed_map(count, 2, work)
    assert columns["value"].tolist() == list(range(count))
    assert columns["flag"].tolist() == [n % 3 == 0 for n in range(count)]
if ranks > 1:
    asked = []
    try:
        with interruptible(lambda: rank == 1 and len(asked) > 1):
            distributed_map(50, 2, lambda rows: asked.append(1) or {"row": torch.tensor(rows)})
    except Interrupted:
        results["interrupted"] = len(asked)

    def fails(rows):
        if rank == 1 and rows[0] >= 6:
            raise ZeroDivisionError
        return {"row": torch.tensor(rows)}

    try:
        distributed_map(50, 2, fails)
    except (ZeroDivisionError, CommandFailed) as error:
        results["failed"] = type(error).__name__

config = tiny_config(f"evaluate.config={settings}", "evaluate.every_steps=1", "steps=1")

class Log(RunLogger):
    __init__ = add = log_media = lambda *_: None

evaluation = PeriodicEvaluation(config, out, lambda: False)
results["metrics"] = evaluation.maybe_evaluate(1, tiny_model(config).train(), None, Log())
results["videos"] = (out / "heatmap.mp4").exists()
(out / f"rank{rank}.json").write_text(json.dumps(results))
state.destroy_process_group()
"""


def _ranks(folder, settings, ranks):
    (folder / str(ranks)).mkdir()
    (folder / "ranks.py").write_text(RANKS)
    launch = (
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        if ranks > 1
        else [sys.executable]
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/support'}", "OMP_NUM_THREADS": "1"}
    arguments = [str(folder / "ranks.py"), str(settings), str(folder / str(ranks))]
    done = subprocess.run([*launch, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=290)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / str(ranks) / f"rank{rank}.json").read_text()) for rank in range(ranks)]


@pytest.mark.slow
def test_three_processes_match_one_bit_for_bit_and_stop_and_fail_together(settings, tmp_path):
    (one,), three = _ranks(tmp_path, settings, 1), _ranks(tmp_path, settings, 3)
    assert len(one["metrics"]) > 20
    for rank in three:
        assert rank["metrics"] == one["metrics"]  # to the last bit
    assert [rank["interrupted"] for rank in three] == [3, 2, 3]  # batches begun
    assert [rank["failed"] for rank in three] == ["CommandFailed", "ZeroDivisionError", "CommandFailed"]
