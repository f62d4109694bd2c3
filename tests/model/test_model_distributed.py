"""Collectives in two real processes agree with the same computation in one."""

import subprocess
import sys

from paths import ROOT

TWO_RANKS = """
import torch
from torch import distributed
from model.distributed import all_gather_batch, all_reduce_sum
from model.encoders.sync_batch_norm import SyncBatchNorm

distributed.init_process_group("gloo")
rank = distributed.get_rank()
torch.manual_seed(0)
whole = torch.randn(6, 4, 3, 5).contiguous(memory_format=torch.channels_last)
factor = torch.randn(6, 4, 3, 5)


def local():
    return whole[rank::2].clone(memory_format=torch.preserve_format).requires_grad_()


def check(mine, alone, value, expected):
    # Each rank computes the full loss, so its gradient counts twice before DDP averages it.
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    expected_gradient, = torch.autograd.grad((expected ** 2 * factor).sum(), alone)
    gradient, = torch.autograd.grad((value ** 2 * factor).sum(), mine)
    torch.testing.assert_close(gradient / 2, expected_gradient[rank::2], rtol=1e-4, atol=1e-5)


alone = whole.clone().requires_grad_()
mine = local()
assert mine.is_contiguous(memory_format=torch.channels_last)
check(mine, alone, all_gather_batch(mine), alone * 1)

mine = local()
check(mine, alone, all_gather_batch(mine) - all_reduce_sum(mine.sum(0)), alone - alone.sum(0))

ours, stock = SyncBatchNorm(4), torch.nn.BatchNorm2d(4)
mine = local()
check(mine, alone, all_gather_batch(ours(mine)), stock(alone))
torch.testing.assert_close(ours.running_mean, stock.running_mean)
torch.testing.assert_close(ours.running_var, stock.running_var)
half = ours(mine.detach().bfloat16())
assert half.dtype == torch.bfloat16 and ours.running_mean.dtype == torch.float32
torch.testing.assert_close(half.float(), stock(alone)[rank::2].float(), rtol=0, atol=0.05)
if rank == 0:
    print("ranks:", distributed.get_world_size())
distributed.destroy_process_group()
"""


def test_two_processes_gather_sum_and_normalize_like_one(tmp_path):
    (tmp_path / "two_ranks.py").write_text(TWO_RANKS)
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(tmp_path / "two_ranks.py"),
    ]
    done = subprocess.run(
        launch,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ranks: 2\n"
