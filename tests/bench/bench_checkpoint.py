"""Cost of a checkpoint of the published model: the training pause (copy to the host) and writing in the background.

`python tests/bench/bench_checkpoint.py [folder]` builds the model with random weights and Adam's moments (needs 10 GB
of memory and 9 GB of disk) and saves it twice; the second save counts. Target: a pause under 5 % of run time with a
checkpoint every 1,000 steps.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from configs.load import load  # noqa: E402
from configs.schema import TrainConfig  # noqa: E402
from model.build import build_denseav  # noqa: E402
from model.denseav import InputSpec  # noqa: E402
from model.training.checkpoint import TrainingState, snapshot, write  # noqa: E402
from model.training.checkpoint_folder import find_corruption  # noqa: E402
from model.training.clipping import build_gradient_clipper  # noqa: E402
from model.training.optim import build_optimizer  # noqa: E402

PUBLISHED = [
    *(
        "model.image_encoder=vit_small_patch8_224.dino",
        "model.lora_rank=8",
        "model.audio_encoder=hubert_large_ls960",
        "model.norm_eps=1e-4",
        "model.num_heads=2",
    ),
    *("model.image_weights=random", "model.audio_weights=random", "model.audio_conv_bias=true"),
]


def main(folder: str | None = None) -> None:
    config = load(TrainConfig, PUBLISHED)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    model = build_denseav(config.model, InputSpec(224, 10.2625, 16000)).to(device)
    optimizer = build_optimizer(config.optim, model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            optimizer.state[parameter] = {
                "step": torch.zeros(()),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    state = TrainingState(model, optimizer, build_gradient_clipper(config.optim, model))
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(f"{device}: {sum(p.numel() for p in model.parameters()):,} parameters, {learning:,} learn")
    with tempfile.TemporaryDirectory(dir=folder) as root:
        for number in range(2):
            began_s = time.perf_counter()
            snap = snapshot(number, "full", state, config, {})
            copied_s = time.perf_counter() - began_s
            began_s = time.perf_counter()
            written = write(Path(root), snap)
            written_s = time.perf_counter() - began_s
            del snap
            size_gb = sum(file.stat().st_size for file in written.iterdir()) / 1e9
            began_s = time.perf_counter()
            assert find_corruption(written) is None
            print(
                f"{size_gb:.2f} GB: copied in {copied_s:.2f} s (training pauses), written, hashed and synced in "
                f"{written_s:.1f} s in the background ({size_gb / written_s:.2f} GB/s), verified in "
                f"{time.perf_counter() - began_s:.1f} s"
            )
    print(
        f"one every 1,000 steps: under 5 % of the run time if a step takes more than {copied_s / 0.05:.0f} ms, "
        f"under 1 % from {copied_s / 0.01:.0f} ms on"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
