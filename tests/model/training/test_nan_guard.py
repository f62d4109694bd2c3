"""A NaN or infinite loss stops the run or skips the step, on all ranks together, with a report."""

import json
import math
import os
import subprocess
import sys

import pytest
import torch
from paths import ROOT
from tiny_batch import tiny_batch
from tiny_training import INPUTS, tiny_config, tiny_model

from configs.errors import CommandFailed
from configs.load import load
from configs.schema import TrainConfig
from model.training.nan_guard import MAX_CONSECUTIVE_SKIPS, NonfiniteGuard
from model.training.step import forward_loss


def _output(value: float = 1.0):
    """Output of a forward pass with this sample in one waveform."""
    config = tiny_config()
    model = tiny_model(config).train()
    batch = tiny_batch(2, INPUTS.image_size_px, 10240)
    batch.audio[1, 100] = value
    return forward_loss(model, batch, model.similarity_config, config.loss, seed=1)


def test_finite_loss_passes_and_writes_no_report(tmp_path):
    guard = NonfiniteGuard(tmp_path, "stop")
    assert not guard.should_skip(7, _output(), ["a", "b"], 0.1) and guard.skipped == 0 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nonfinite_loss_stops_the_run_with_step_terms_clips_and_a_report(tmp_path, value):
    with pytest.raises(
        CommandFailed,
        match=r"^step 7: the loss is nan \(info_nce=nan, .*\); clips a, b; details in .*nonfinite_step_00000007\.json",
    ) as caught:
        NonfiniteGuard(tmp_path, "stop").should_skip(7, _output(value), ["a", "b"], 0.1)
    assert "\n" not in str(caught.value)
    report = json.loads(
        (tmp_path / "nonfinite_step_00000007.json").read_text(), parse_constant=lambda _: pytest.fail("not JSON")
    )
    assert (report["step"], report["loss"], report["lr"], report["logit_scale"]) == (7, "nan", 0.1, 1.0)
    assert report["terms"]["info_nce"] == "nan"
    (rank,) = report["ranks"]
    assert (
        rank["clips"] == ["a", "b"]
        and rank["features"]["audio"]["not_finite"] > 0 == rank["features"]["image"]["not_finite"]
    )
    assert 0 < rank["features"]["image"]["largest"] < 100


@pytest.mark.parametrize(
    ("terms", "named"),
    [({"info_nce": 1.0, "tv": math.inf}, r"\(tv=inf\)"), ({"info_nce": 1.0, "tv": 2.0}, r"\(every term is finite\)")],
)
def test_only_nonfinite_terms_are_named(tmp_path, terms, named):
    output = _output()._replace(
        loss=torch.tensor(math.inf), terms={name: torch.tensor(value) for name, value in terms.items()}
    )
    with pytest.raises(CommandFailed, match=f"^step 7: the loss is inf {named}; clips a"):
        NonfiniteGuard(tmp_path, "stop").should_skip(7, output, ["a"], 0.1)


def test_skip_action_skips_and_counts_the_step(tmp_path, capsys):
    guard, bad, good = NonfiniteGuard(tmp_path, "skip"), _output(math.nan), _output()
    assert [guard.should_skip(step, output, ["a"], 0.1) for step, output in ((1, bad), (2, good), (3, bad))] == [
        True,
        False,
        True,
    ]
    assert guard.skipped == 2 and sorted(path.name[-6:] for path in tmp_path.iterdir()) == ["1.json", "3.json"]
    assert capsys.readouterr().err.count("the step is skipped") == 2


def test_consecutive_skips_stop_the_run_unless_interrupted_by_finite_losses(tmp_path):
    guard, bad = NonfiniteGuard(tmp_path, "skip"), _output(math.nan)
    for step in range(1, 4 * MAX_CONSECUTIVE_SKIPS, 2):
        assert guard.should_skip(step, bad, ["a"], 0.1)
    for step in range(100, 100 + MAX_CONSECUTIVE_SKIPS - 1):
        assert guard.should_skip(step, bad, ["a"], 0.1)
    with pytest.raises(CommandFailed, match=f"{MAX_CONSECUTIVE_SKIPS} such steps in a row"):
        guard.should_skip(100 + MAX_CONSECUTIVE_SKIPS - 1, bad, ["a"], 0.1)


def test_skipped_batch_does_not_change_running_means():
    model = tiny_model(tiny_config()).train()
    batch = tiny_batch(2, INPUTS.image_size_px, 10240)
    batch.audio[1, 100] = math.nan
    next(model.image_encoder.parameters()).data.fill_(math.inf)
    forward_loss(model, batch, model.similarity_config, tiny_config().loss, seed=1)
    running = {name: buffer for name, buffer in model.named_buffers() if "running_" in name}
    assert running and all(buffer.isfinite().all() for buffer in running.values())


def test_unknown_action_is_an_error():
    with pytest.raises(ValueError, match="nonfinite_loss_action=ignore: allowed are stop, skip"):
        load(TrainConfig, ["nonfinite_loss_action=ignore"])


RANKS = """
import json, sys
from pathlib import Path
import torch
from accelerate import PartialState
from tiny_batch import rows, tiny_batch
from tiny_training import INPUTS, tiny_config, tiny_model
from torch.nn.parallel import DistributedDataParallel
from model.training.nan_guard import NonfiniteGuard
from model.training.step import forward_loss

state = PartialState(cpu=True)
rank, out = state.process_index, Path(sys.argv[1])
config = tiny_config("model.image_encoder=vit_tiny_patch16_224", "model.image_weights=random")
model = tiny_model(config).train()
wrapped, guard = DistributedDataParallel(model), NonfiniteGuard(out, "skip")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
made = []
for step in range(1, 6):
    batch = rows(tiny_batch(4, INPUTS.image_size_px, 10240, seed=step), slice(rank, None, 2))
    if step in (2, 3) and rank == 1:
        batch.audio[0] = float("nan")
    output = forward_loss(wrapped, batch, model.similarity_config, config.loss, step)
    if not guard.should_skip(step, output, [f"clip{rank}_{step}"], 0.1):
        output.loss.backward()
        optimizer.step()
        made.append(step)
    optimizer.zero_grad()
digest = sum(parameter.double().abs().sum().item() for parameter in model.parameters())
(out / f"rank{rank}").write_text(json.dumps({"made": made, "skipped": guard.skipped, "weights": digest}))
state.destroy_process_group()
"""


@pytest.mark.slow
def test_both_ranks_skip_a_step_in_which_one_has_a_bad_clip(tmp_path):
    (tmp_path / "ranks.py").write_text(RANKS)
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(tmp_path / "ranks.py"),
        str(tmp_path),
    ]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/support'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(launch, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=290)
    assert done.returncode == 0, done.stderr[-3000:]
    one, other = (json.loads((tmp_path / f"rank{rank}").read_text()) for rank in (0, 1))
    assert one == other and one["made"] == [1, 4, 5] and one["skipped"] == 2 and math.isfinite(one["weights"])
    assert done.stderr.count("the step is skipped") == 2  # printed by one rank
    report = json.loads((tmp_path / "nonfinite_step_00000002.json").read_text())
    assert [rank["clips"] for rank in report["ranks"]] == [["clip0_2"], ["clip1_2"]]
    found = [[rank["features"][kind]["not_finite"] > 0 for rank in report["ranks"]] for kind in ("image", "audio")]
    assert found == [[False, False], [True, True]]  # batch normalization over all ranks spreads it
