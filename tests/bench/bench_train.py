"""Time of a training step: `python tests/bench/bench_train.py [folder of the toy world]` (default: data/toy)

1. The toy world on two cores: fraction of time spent loading data (target below 3 %), and the pause of a checkpoint
   relative to 1,000 steps (target below 5 %; bench_checkpoint.py measures the published model's).
2. On a GPU, the published model in bf16 with random weights, on noise on the device: MFU of the best batch size (target
40 %;
   model.training.flops), and its clips/s relative to the eager model with the full similarity volume in memory, at the
   largest batch that fits (target 1.5 times).
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]

STEPS, LOG_EVERY, CHECKPOINT_EVERY = 60, 10, 20
PUBLISHED = [
    "config=configs/train/sound_and_language.yaml",
    "model.image_weights=random",
    "model.audio_weights=random",
    "tracker=none",
    "frozen_encoder_steps=0",
]
PAIRS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
WARMUP, MEASURED = 3, 8


def toy_run(toy: str, out: str) -> tuple[float, float, list[float]]:
    """Returns the fraction of time spent loading data, seconds per step, and seconds of pause for each checkpoint."""
    import torch

    import train
    from configs.load import load
    from configs.schema import TrainConfig
    from model.training import checkpoint, checkpoint_manager

    torch.set_num_threads(2)
    pauses_s: list[float] = []

    def timed(function: Any) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            began_s = time.perf_counter()
            result = function(*arguments, **keywords)
            pauses_s.append(time.perf_counter() - began_s)
            return result

        return call

    checkpoint.snapshot, checkpoint_manager.CheckpointManager.add = (
        timed(checkpoint.snapshot),
        timed(checkpoint_manager.CheckpointManager.add),
    )
    sources = ", ".join(f"{{name: {name}, shards: {toy}/shards/{name}_train}}" for name in ("audioset", "places_audio"))
    settings = [
        f"steps={STEPS}",
        f"log_every_steps={LOG_EVERY}",
        f"checkpoint.every_steps={CHECKPOINT_EVERY}",
        f"stream.sources=[{sources}]",
    ]
    assert train.main(load(TrainConfig, ["config=configs/train/toy.yaml", "name=bench", f"out={out}", *settings])) == 0
    history = (Path(out) / "bench/history.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in history[1:]]  # the first includes the start of the workers
    step_s = statistics.fmean(48 / line["clips_per_s"] for line in lines)
    return (
        statistics.fmean(line["data_time_fraction"] for line in lines),
        step_s,
        [sum(pair) for pair in zip(pauses_s[::2], pauses_s[1::2], strict=True)],
    )


def published_run(
    pairs: int, plain: bool, settings: list[str] = PUBLISHED, device: str = "cuda"
) -> dict[str, float] | None:
    """Returns clips_per_s, mfu and memory_gb of one batch size; None if it does not fit.

    Args:
        plain: not compiled, and scores computed from the full volume.
    """
    import torch
    from accelerate import Accelerator
    from tiny_batch import tiny_batch

    from configs.load import load
    from configs.schema import TrainConfig
    from model.build import build_denseav
    from model.denseav import InputSpec
    from model.losses import objective
    from model.similarity import dense
    from model.training.clipping import build_gradient_clipper
    from model.training.flops import ideal_s_per_clip
    from model.training.optim import build_optimizer
    from model.training.step import forward_loss
    from model.training.torch_compile import compile_encoders

    if plain:
        objective.fused = dense
    config = load(TrainConfig, settings)
    inputs = InputSpec(config.stream.image_size_px, config.stream.clip_duration_s, config.stream.sample_rate_hz)
    accelerator = Accelerator(mixed_precision="bf16", cpu=device == "cpu")
    torch.manual_seed(0)
    model = build_denseav(config.model, inputs).to(accelerator.device).train()
    least_s = ideal_s_per_clip(model, 1)
    if not plain and device != "cpu":
        compile_encoders(model)
    clipping = build_gradient_clipper(config.optim, model)
    wrapped, optimizer = accelerator.prepare(model, build_optimizer(config.optim, model))

    def step(number: int) -> None:
        output = forward_loss(wrapped, batch, model.similarity_config, config.loss, number, score_dtype=torch.bfloat16)
        assert output.loss.isfinite()
        accelerator.backward(output.loss)
        clipping.clip()
        optimizer.step()
        optimizer.zero_grad()

    try:
        batch = tiny_batch(pairs, inputs.image_size_px, round(inputs.clip_duration_s * inputs.sample_rate_hz))
        for name, value in vars(batch).items():
            setattr(batch, name, value.to(accelerator.device))
        for number in range(WARMUP):
            step(number)
        _finished(device)
        began_s = time.perf_counter()
        for number in range(MEASURED):
            step(number)
        _finished(device)
    except torch.OutOfMemoryError:
        return None
    clips_per_s = MEASURED * pairs / (time.perf_counter() - began_s)
    memory_gb = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else 0.0
    return {"clips_per_s": clips_per_s, "mfu": clips_per_s * (least_s or 0.0), "memory_gb": memory_gb}


def _finished(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def main(toy: str) -> None:
    import torch

    if (Path(toy) / "shards").is_dir():
        with tempfile.TemporaryDirectory() as out:
            data_fraction, step_s, pauses_s = _in_new_process(toy_run, toy, out)
        print(
            f"toy world, 2 threads, {1000 * step_s:.0f} ms per step: {data_fraction:.2%} loading data (target: < 3 %)"
        )
        pause_s = max(pauses_s)
        print(
            f"  a checkpoint pauses training for at most {1000 * pause_s:.0f} ms: "
            f"{pause_s / (1000 * step_s):.3%} of the time of 1,000 steps (target: below 5 %)"
        )
    else:
        print(f"{toy}/shards: no such folder; `make demo` creates the toy world")
    if not torch.cuda.is_available():
        print("no GPU: the published model is not measured")
        return
    print(torch.cuda.get_device_name())
    found: dict[bool, list[tuple[int, dict[str, float]]]] = {}
    for plain in (False, True):
        found[plain] = []
        for pairs in PAIRS:
            values = _in_new_process(published_run, pairs, plain)
            if values is None:
                break
            found[plain].append((pairs, values))
            form = "eager, volume in memory" if plain else "compiled, fused scores"
            print(
                f"{form:<24} {pairs:>5} pairs {values['clips_per_s']:8.0f} clips/s  MFU {values['mfu']:5.1%}  "
                f"{values['memory_gb']:5.1f} GB",
                flush=True,
            )
    pairs, best = max(found[False], key=lambda entry: entry[1]["clips_per_s"])
    largest, plain = found[True][-1]
    speedup = best["clips_per_s"] / plain["clips_per_s"]
    print(f"MFU {best['mfu']:.1%} at {pairs} pairs (target: 40 %)")
    print(f"{speedup:.2f} times the clips/s of the eager model at the {largest} pairs that fit (target: 1.5)")


def _in_new_process(function: Any, *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(ROOT / "data/toy"))
