"""Train a DenseAV on shards: `accelerate launch --config_file configs/accelerate/X.yaml train.py config=configs/train/Y.yaml key=value ...`

A run lives in OUT/NAME: config.yaml, checkpoints/step_XXXXXXXX/, history.jsonl. The same command again goes on from the newest whole
checkpoint, on any number of processes. SIGTERM, SIGUSR1 or a time limit save, leave the file REQUEUE there, and end with 75; Ctrl-C saves and ends with 130.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.command import RunFailed, UsageError, run
from configs.contradictions import refuse_contradictions
from configs.load import to_yaml
from configs.schema import ModelConfig, TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from model.training.nonfinite import NonfiniteGuard
    from model.training.preemption import Preemption
    from model.training.step import Batch, StepOutput


def main(config: TrainConfig) -> int:
    """Meet the other processes, then train; a signal counts from the first moment on."""
    from model.training.preemption import Preemption

    stop = Preemption(config.time_limit_min)
    refuse_contradictions(config)

    from model.training.processes import lost_peers_told, open_accelerator, wants_fsdp
    from model.training.tracking import tracker_names
    from pipelines.whole_file import own_folder

    folder, fsdp = Path(config.out) / config.name, wants_fsdp()
    accelerator = open_accelerator(config.timeout_s, tracker_names(config.tracker), folder)
    if config.batch_size % accelerator.num_processes:
        raise UsageError(f"batch_size={config.batch_size} (global) must be a multiple of the {accelerator.num_processes} processes launched")
    with lost_peers_told(config.timeout_s), contextlib.ExitStack() as closing:
        stop.join(config.timeout_s)
        if accelerator.is_main_process:
            closing.enter_context(own_folder(folder))
        return train(config, folder, accelerator, stop, fsdp)


def train(config: TrainConfig, folder: Path, accelerator: Accelerator, stop: Preemption, fsdp: bool) -> int:
    """Build the parts, then load, step, log and save until the last step or until told to stop."""
    import torch
    from accelerate.utils import broadcast_object_list

    from eval.during_training import PeriodicEvaluation
    from model.build import build_denseav, refuse_unfit_inputs
    from model.grounding.denseav import InputSpec
    from model.training.checkpoint import TrainingState, read_state, restore, snapshot
    from model.training.clipping import make_clipping
    from model.training.compiling import compile_encoders
    from model.training.ema import WeightAverage
    from model.training.flops import least_clip_s_by_phase
    from model.training.initial import take_weights
    from model.training.meter import Meter, gradient_norms
    from model.training.nonfinite import NonfiniteGuard
    from model.training.optim import freeze_for_phase, learning_rate, make_optimizer, phases_from, set_learning_rate
    from model.training.sharding import EvaluatedWeights, divide, is_divided, prepare
    from model.training.shelf import CheckpointShelf, newest_checkpoint, tidy
    from model.training.tracking import RunLog
    from pipelines.stream.loader import open_stream
    from pipelines.whole_file import whole_file

    rank, world_size, on_main = accelerator.process_index, accelerator.num_processes, accelerator.is_main_process

    # ---- where the run stands
    stream = open_stream(config.stream, config.seed, config.batch_size)
    checkpoints = folder / "checkpoints"
    newest = broadcast_object_list([newest_checkpoint(checkpoints) if on_main else None])[0]
    saved: dict[str, Any] = read_state(newest, config, stream.fingerprint) if newest else {"step": 0, "phase": None}
    start = done = saved["step"]

    # ---- the parts
    torch.manual_seed(config.seed)
    inputs = InputSpec(config.stream.image_size_px, config.stream.clip_duration_s, config.stream.sample_rate_hz)
    model = build_denseav(_without_weights(config.model) if newest or config.init_from else config.model, inputs)
    if newest:
        accelerator.print(
            f"going on after step {start} of {newest}" + (f": steps={config.steps} are done, there is nothing to do" if start >= config.steps else "")
        )
    elif config.init_from:
        accelerator.print(f"weights of {take_weights(model, config.init_from, config.init_except)}")
    learnable = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    refuse_unfit_inputs(model.to(accelerator.device))
    phases = phases_from(start, config.projection_steps, config.steps)
    least_clip_s = least_clip_s_by_phase(model, [phase.name for phase in phases], learnable, world_size)
    if fsdp:
        divide(model, accelerator.mixed_precision)
    average = WeightAverage(model, config.optim.ema_decay) if config.optim.ema_decay else None
    if config.compile:
        compile_encoders(model)

    # ---- what the run writes
    if on_main:
        checkpoints.mkdir(exist_ok=True)
        tidy(checkpoints, start)
        (folder / "REQUEUE").unlink(missing_ok=True)
        with whole_file(folder / "config.yaml") as file:
            file.write(to_yaml(config).encode())
    guard, meter = NonfiniteGuard(folder, config.on_nonfinite), Meter(config.batch_size * config.accumulate)

    def save(phase: str, state: TrainingState, metrics: Mapping[str, float] | None = None) -> None:
        if on_main or is_divided(model):  # all ranks put together a divided model
            snap = snapshot(done, phase, state, config, stream.fingerprint, metrics)
            if on_main:
                shelf.add(snap)

    # ---- the steps
    arriving = _in_groups(stream.batches(rank, world_size, start * config.accumulate), config.accumulate)
    with CheckpointShelf(checkpoints, config.checkpoint, start) as shelf, RunLog(accelerator, config, folder, start) as log:
        evaluation = PeriodicEvaluation(config, folder, stop.heard) if config.evaluate.config else None
        for phase in phases:
            freeze_for_phase(model, phase.name, learnable)
            state = TrainingState(model, make_optimizer(config.optim, model), make_clipping(config.optim, model), average, accelerator.scaler)
            if newest:
                restore(newest, state, same_phase=saved["phase"] == phase.name)
                newest = None
            meter.least_clip_s = least_clip_s[phase.name]
            wrapped, optimizer = prepare(accelerator, model, state.optimizer)
            wrapped.train()
            if evaluation:  # one that the run was stopped in is made up for
                made_up = evaluation.after(phase.start, model, EvaluatedWeights(average), log)
                if made_up and on_main:
                    shelf.add_metrics(made_up)
            meter.restart()
            for step in range(phase.start, phase.stop):
                lr = set_learning_rate(optimizer, learning_rate(config.optim, step - phase.first, phase.stop - phase.first))
                with meter.waiting():
                    batches = stop.next_of(arriving)
                if batches is None:
                    break
                done = step + 1
                to_log, values = done % config.log_every_steps == 0 or done == config.steps, {}
                outputs = _backward(accelerator, wrapped, batches, config, step, guard, lr)
                if outputs:
                    accelerator.unscale_gradients(optimizer)
                    values |= gradient_norms(model) if to_log else {}
                    grad_norm = state.clipping.clip()
                    optimizer.step()
                optimizer.zero_grad()
                if average:
                    average.update(model, done)

                meter.add(sum((batch.rejected for batch in batches), Counter()))
                log.step()
                if to_log:
                    values |= _mean([output.values() for output in outputs]) | meter.read() | {"lr": lr, "skipped_steps": guard.skipped}
                    values |= {f"lr/{group.match}": lr * group.lr_factor for group in config.optim.groups}
                    log.add(done, values | ({"grad_norm": float(grad_norm)} if outputs else {}))
                metrics = evaluation.after(done, model, EvaluatedWeights(average), log) if evaluation else {}
                if metrics:
                    meter.restart()
                if done % config.checkpoint.every_steps == 0 or done == config.steps:
                    save(phase.name, state, metrics)
            if stop.reason and not stop.everywhere(not on_main or done <= shelf.finish()):
                save(phase.name, state)
            model = accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
            accelerator.free_memory()
            if stop.reason:
                break

    # ---- the end
    is_saved = not on_main or shelf.newest == done
    if on_main and is_saved and stop.reason.wants_requeue:
        (folder / "REQUEUE").write_text(f"{stop.reason.name} after step {done}\n")
    all_saved = stop.everywhere(is_saved)  # the launcher ends all processes when one leaves, so they leave together
    accelerator.end_training()
    if not all_saved:
        raise RunFailed(f"{checkpoints}: the last checkpoint could not be written; make room, then run the same command again")
    if stop.reason:
        accelerator.print(f"{stop.reason.name}: left after step {done} of {config.steps}; the same command goes on: {folder}")
        return stop.reason.exit_code
    accelerator.print(f"trained {done} steps on {world_size} process{'' if world_size == 1 else 'es'}: {folder}")
    return 0


def _backward(
    accelerator: Accelerator, wrapped: nn.Module, batches: Sequence[Batch], config: TrainConfig, step: int, guard: NonfiniteGuard, lr: float
) -> list[StepOutput]:
    """Gradients of one step, the mean over its batches; ranks exchange them with the last one. [] for a step that is left out.

    All random numbers are drawn from (seed, number of the batch, rank), and the objective's from (seed, number of the batch).
    """
    import torch

    from model.training.sharding import finish_backward
    from model.training.step import forward_loss, seed_of

    model = accelerator.unwrap_model(wrapped)
    score_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision)  # autocast's features come back as float32
    outputs = []
    for number, batch in enumerate(batches, step * config.accumulate):
        torch.manual_seed(seed_of(config.seed, number, accelerator.process_index))
        with contextlib.nullcontext() if batch is batches[-1] else accelerator.no_sync(wrapped):
            on_device = batch.to(accelerator.device)
            output = forward_loss(wrapped, on_device, model.score_settings, config.loss, seed_of(config.seed, number), config.chunk_pairs, score_dtype)
            if guard.leaves_out(step + 1, output, batch.id, lr):
                return []
            accelerator.backward(output.loss / config.accumulate)
            finish_backward(model)
        outputs.append(output)
    return outputs


def _in_groups(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    """The batches of each step."""
    while True:
        yield list(itertools.islice(batches, size))


def _mean(values: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each key over those that have it."""
    return {key: statistics.fmean(each[key] for each in values if key in each) for key in {key: None for each in values for key in each}}


def _without_weights(config: ModelConfig) -> ModelConfig:
    """The same model with random weights: others are read in a moment."""
    return dataclasses.replace(config, image_weights="random", audio_weights="random")


if __name__ == "__main__":
    sys.exit(run(TrainConfig, __doc__, main))
