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

from configs.cli import run
from configs.errors import CommandFailed, UsageError
from configs.load import to_yaml
from configs.schema import ModelConfig, TrainConfig
from configs.validate import validate_train_config

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from model.training.nan_guard import NonfiniteGuard
    from model.training.preemption import Preemption
    from model.training.step import Batch, StepOutput


def main(config: TrainConfig) -> int:
    """Meet the other processes, then train; a signal counts from the first moment on."""
    from model.training.preemption import Preemption

    stop = Preemption(config.time_limit_min)
    validate_train_config(config)

    from model.training.launch import create_accelerator, fsdp_requested, report_lost_peers
    from model.training.tracking import tracker_names
    from pipelines.atomic_write import locked_run_dir

    folder, fsdp = Path(config.out) / config.name, fsdp_requested()
    accelerator = create_accelerator(config.distributed_timeout_s, tracker_names(config.tracker), folder)
    if config.global_batch_size % accelerator.num_processes:
        raise UsageError(
            f"global_batch_size={config.global_batch_size} (global) must be a multiple of the {accelerator.num_processes} processes launched"
        )
    with report_lost_peers(config.distributed_timeout_s), contextlib.ExitStack() as closing:
        stop.join(config.distributed_timeout_s)
        if accelerator.is_main_process:
            closing.enter_context(locked_run_dir(folder))
        return train(config, folder, accelerator, stop, fsdp)


def train(config: TrainConfig, folder: Path, accelerator: Accelerator, stop: Preemption, fsdp: bool) -> int:
    """Build the parts, then load, step, log and save until the last step or until told to stop."""
    import torch
    from accelerate.utils import broadcast_object_list

    from eval.periodic import PeriodicEvaluation
    from model.build import build_denseav, check_input_sizes
    from model.denseav import InputSpec
    from model.training.checkpoint import TrainingState, read_state, restore, snapshot
    from model.training.checkpoint_manager import CheckpointManager, clean_up_interrupted, newest_checkpoint
    from model.training.clipping import build_gradient_clipper
    from model.training.ema import ModelEma
    from model.training.flops import least_clip_s_by_phase
    from model.training.fsdp import EvalWeights, is_sharded, prepare, shard_model
    from model.training.init_weights import load_init_weights
    from model.training.nan_guard import NonfiniteGuard
    from model.training.optim import (
        build_optimizer,
        freeze_for_phase,
        learning_rate,
        remaining_phases,
        set_learning_rate,
    )
    from model.training.throughput import ThroughputMeter, gradient_norms
    from model.training.torch_compile import compile_encoders
    from model.training.tracking import RunLogger
    from pipelines.atomic_write import atomic_open
    from pipelines.stream.loader import open_stream

    rank, world_size, on_main = accelerator.process_index, accelerator.num_processes, accelerator.is_main_process

    # ---- where the run stands
    stream = open_stream(config.stream, config.seed, config.global_batch_size)
    checkpoints = folder / "checkpoints"
    newest = broadcast_object_list([newest_checkpoint(checkpoints) if on_main else None])[0]
    saved: dict[str, Any] = read_state(newest, config, stream.fingerprint) if newest else {"step": 0, "phase": None}
    start = done = saved["step"]

    # ---- the parts
    torch.manual_seed(config.seed)
    inputs = InputSpec(config.stream.image_size_px, config.stream.clip_duration_s, config.stream.sample_rate_hz)
    model = build_denseav(_without_weights(config.model) if newest or config.init_checkpoint else config.model, inputs)
    if newest:
        accelerator.print(
            f"going on after step {start} of {newest}"
            + (f": steps={config.steps} are done, there is nothing to do" if start >= config.steps else "")
        )
    elif config.init_checkpoint:
        accelerator.print(f"weights of {load_init_weights(model, config.init_checkpoint, config.init_exclude)}")
    learnable = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    check_input_sizes(model.to(accelerator.device))
    phases = remaining_phases(start, config.frozen_encoder_steps, config.steps)
    ideal_s_per_clip = least_clip_s_by_phase(model, [phase.name for phase in phases], learnable, world_size)
    if fsdp:
        shard_model(model, accelerator.mixed_precision)
    ema = ModelEma(model, config.optim.ema_decay) if config.optim.ema_decay else None
    if config.compile:
        compile_encoders(model)

    # ---- what the run writes
    if on_main:
        checkpoints.mkdir(exist_ok=True)
        clean_up_interrupted(checkpoints, start)
        (folder / "REQUEUE").unlink(missing_ok=True)
        with atomic_open(folder / "config.yaml") as file:
            file.write(to_yaml(config).encode())
    guard, meter = (
        NonfiniteGuard(folder, config.nonfinite_loss_action),
        ThroughputMeter(config.global_batch_size * config.gradient_accumulation_steps),
    )

    def save(phase: str, state: TrainingState, metrics: Mapping[str, float] | None = None) -> None:
        if on_main or is_sharded(model):  # all ranks put together a divided model
            snap = snapshot(done, phase, state, config, stream.fingerprint, metrics)
            if on_main:
                shelf.add(snap)

    # ---- the steps
    arriving = _in_groups(
        stream.batches(rank, world_size, start * config.gradient_accumulation_steps), config.gradient_accumulation_steps
    )
    with (
        CheckpointManager(checkpoints, config.checkpoint, start) as shelf,
        RunLogger(accelerator, config, folder, start) as log,
    ):
        evaluation = PeriodicEvaluation(config, folder, stop.local_reason) if config.evaluate.config else None
        for phase in phases:
            freeze_for_phase(model, phase.name, learnable)
            state = TrainingState(
                model,
                build_optimizer(config.optim, model),
                build_gradient_clipper(config.optim, model),
                ema,
                accelerator.scaler,
            )
            if newest:
                restore(newest, state, same_phase=saved["phase"] == phase.name)
                newest = None
            meter.ideal_s_per_clip = ideal_s_per_clip[phase.name]
            wrapped, optimizer = prepare(accelerator, model, state.optimizer)
            wrapped.train()
            if evaluation:  # one that the run was stopped in is made up for
                made_up = evaluation.maybe_evaluate(phase.start, model, EvalWeights(ema), log)
                if made_up and on_main:
                    shelf.add_metrics(made_up)
            meter.restart()
            for step in range(phase.start, phase.stop):
                lr = set_learning_rate(
                    optimizer, learning_rate(config.optim, step - phase.first, phase.stop - phase.first)
                )
                with meter.data_timer():
                    batches = stop.next_or_stop(arriving)
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
                if ema:
                    ema.update(model, done)

                meter.add(sum((batch.rejected for batch in batches), Counter()))
                log.step()
                if to_log:
                    values |= (
                        _mean([output.values() for output in outputs])
                        | meter.read()
                        | {"lr": lr, "skipped_steps": guard.skipped}
                    )
                    values |= {f"lr/{group.prefix}": lr * group.lr_mult for group in config.optim.groups}
                    log.add(done, values | ({"grad_norm": float(grad_norm)} if outputs else {}))
                metrics = evaluation.maybe_evaluate(done, model, EvalWeights(ema), log) if evaluation else {}
                if metrics:
                    meter.restart()
                if done % config.checkpoint.every_steps == 0 or done == config.steps:
                    save(phase.name, state, metrics)
            if stop.reason and not stop.all_ranks(not on_main or done <= shelf.finish()):
                save(phase.name, state)
            model = accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
            accelerator.free_memory()
            if stop.reason:
                break

    # ---- the end
    is_saved = not on_main or shelf.newest == done
    if on_main and is_saved and stop.reason.should_requeue:
        (folder / "REQUEUE").write_text(f"{stop.reason.name} after step {done}\n")
    all_saved = stop.all_ranks(is_saved)  # the launcher ends all processes when one leaves, so they leave together
    accelerator.end_training()
    if not all_saved:
        raise CommandFailed(
            f"{checkpoints}: the last checkpoint could not be written; make room, then run the same command again"
        )
    if stop.reason:
        accelerator.print(
            f"{stop.reason.name}: left after step {done} of {config.steps}; the same command goes on: {folder}"
        )
        return stop.reason.exit_code
    accelerator.print(f"trained {done} steps on {world_size} process{'' if world_size == 1 else 'es'}: {folder}")
    return 0


def _backward(
    accelerator: Accelerator,
    wrapped: nn.Module,
    batches: Sequence[Batch],
    config: TrainConfig,
    step: int,
    guard: NonfiniteGuard,
    lr: float,
) -> list[StepOutput]:
    """Gradients of one step, the mean over its batches; ranks exchange them with the last one. [] for a step that is left out.

    All random numbers are drawn from (seed, number of the batch, rank), and the objective's from (seed, number of the batch).
    """
    import torch

    from model.training.fsdp import sync_unsharded_grads
    from model.training.step import derive_seed, forward_loss

    model = accelerator.unwrap_model(wrapped)
    score_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(
        accelerator.mixed_precision
    )  # autocast's features come back as float32
    outputs = []
    for number, batch in enumerate(batches, step * config.gradient_accumulation_steps):
        torch.manual_seed(derive_seed(config.seed, number, accelerator.process_index))
        with contextlib.nullcontext() if batch is batches[-1] else accelerator.no_sync(wrapped):
            on_device = batch.to(accelerator.device)
            output = forward_loss(
                wrapped,
                on_device,
                model.similarity_config,
                config.loss,
                derive_seed(config.seed, number),
                config.grad_cache_chunk_size,
                score_dtype,
            )
            if guard.should_skip(step + 1, output, batch.id, lr):
                return []
            accelerator.backward(output.loss / config.gradient_accumulation_steps)
            sync_unsharded_grads(model)
        outputs.append(output)
    return outputs


def _in_groups(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    """The batches of each step."""
    while True:
        yield list(itertools.islice(batches, size))


def _mean(values: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each key over those that have it."""
    return {
        key: statistics.fmean(each[key] for each in values if key in each)
        for key in {key: None for each in values for key in each}
    }


def _without_weights(config: ModelConfig) -> ModelConfig:
    """The same model with random weights: others are read in a moment."""
    return dataclasses.replace(config, image_weights="random", audio_weights="random")


if __name__ == "__main__":
    sys.exit(run(TrainConfig, __doc__, main))
