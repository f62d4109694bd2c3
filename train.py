"""Train DenseAV: `accelerate launch --config_file configs/accelerate/X.yaml train.py config=configs/train/Y.yaml ...`

Writes OUT/NAME: config.yaml, checkpoints/step_XXXXXXXX/, history.jsonl. The same command resumes from the newest valid
checkpoint, on any number of processes. SIGTERM, SIGUSR1 and a time limit save a checkpoint, leave the file REQUEUE and
exit with 75; Ctrl-C saves and exits with 130.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.atomic_write import locked_run_dir
from configs.cli import run
from configs.errors import CommandFailed, UsageError
from configs.schema import TrainConfig
from configs.validate import validate_train_config
from model.training import cpu_threads, launch, preemption, resume
from pipelines.cgroup import cgroup_limit

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer
    from torch import nn

    from eval.periodic import PeriodicEvaluation
    from model.denseav import DenseAV
    from model.training import checkpoint, checkpoint_manager, ema, nan_guard, optim, throughput, tracking
    from pipelines.stream.batch import HostBatch
    from pipelines.stream.loader import Stream


@dataclasses.dataclass
class Run:
    """The parts of a run: `build` makes them, `fit` uses them.

    `step` counts finished steps; `resume_from` is a checkpoint still to be restored; `learnable` are the names of the
    parameters that learn in the phase `full`; `ideal_s_per_clip` is that of each phase (model.training.flops).
    """

    config: TrainConfig
    folder: Path
    accelerator: Accelerator
    stop: preemption.Preemption
    stream: Stream
    evaluation: PeriodicEvaluation | None
    model: DenseAV
    learnable: frozenset[str]
    weight_average: ema.ModelEma | None
    ideal_s_per_clip: Mapping[str, float | None]
    phases: list[optim.Phase]
    step: int
    resume_from: Path | None
    resume_phase: str | None
    guard: nan_guard.NonfiniteGuard
    meter: throughput.ThroughputMeter
    microbatches: Iterator[list[HostBatch]]
    checkpoints: checkpoint_manager.CheckpointManager
    log: tracking.RunLogger


def main(config: TrainConfig) -> int:
    """Handle signals, connect to the other processes, build the run and train; returns the exit code."""
    from model.training import tracking
    from pipelines.stream.open_order import open_order

    stop = preemption.Preemption(config.time_limit_min)
    validate_train_config(config)
    folder, seed, batch_size = Path(config.out) / config.name, config.seed, config.global_batch_size
    resume.set_aside(config, folder)
    if resume.is_finished(config, folder, lambda: open_order(config.stream, seed, batch_size).fingerprint):
        return 0

    fsdp, timeout_s = launch.fsdp_requested(), config.distributed_timeout_s
    accelerator = launch.create_accelerator(timeout_s, tracking.tracker_names(config.tracker), folder)
    if batch_size % (world_size := accelerator.num_processes):
        raise UsageError(f"global_batch_size={batch_size}: must be a multiple of the {world_size} processes launched")
    with launch.report_lost_peers(timeout_s), contextlib.ExitStack() as closing:
        stop.join(timeout_s)
        if accelerator.is_main_process:
            closing.enter_context(locked_run_dir(folder))
        cpu_threads.set_num_threads(accelerator, config.stream.num_workers, cgroup_limit("cpu"))
        return fit(build(config, folder, accelerator, stop, fsdp))


def build(config: TrainConfig, folder: Path, accelerator: Accelerator, stop: preemption.Preemption, fsdp: bool) -> Run:
    """Open the data, find the checkpoint to resume from, and build the model and everything around it."""
    from accelerate.utils import broadcast_object_list

    from eval.periodic import PeriodicEvaluation
    from model.training import (
        build_model,
        checkpoint_folder,
        checkpoint_manager,
        gradient_accumulation,
        nan_guard,
        optim,
        throughput,
        tracking,
    )
    from pipelines.stream.loader import open_stream

    on_main, world_size = accelerator.is_main_process, accelerator.num_processes
    stream, root = open_stream(config.stream, config.seed, config.global_batch_size), folder / "checkpoints"
    if on_main:
        for warning in [*launch.warnings(world_size), *stream.warnings()]:
            print(f"warning: {warning}", file=sys.stderr)
    evaluation = PeriodicEvaluation(config, folder, stop.local_reason) if config.evaluate.config else None
    newest = broadcast_object_list([checkpoint_folder.newest_checkpoint(root) if on_main else None])[0]
    saved: dict[str, Any] = {"step": 0, "phase": None}
    if newest:
        saved = resume.read_state(newest, config, stream.fingerprint)
        accelerator.print(resume.resume_message(newest, saved["step"], config))
    step, accumulation = saved["step"], config.gradient_accumulation_steps
    phases = optim.remaining_phases(step, config.frozen_encoder_steps, config.steps)
    parts = build_model.build_training_model(config, accelerator, phases, newest is not None, fsdp)
    if on_main:
        root.mkdir(exist_ok=True)
        checkpoint_folder.clean_up_interrupted(root, step)
        resume.write_run_config(folder, config)
    batches = stream.batches(accelerator.process_index, world_size, step * accumulation)
    return Run(
        config, folder, accelerator, stop, stream, evaluation, *parts, phases, step, newest, saved["phase"],
        nan_guard.NonfiniteGuard(folder, config.nonfinite_loss_action),
        throughput.build_meter(config, cgroup_limit("cpu")),
        gradient_accumulation.group_microbatches(batches, accumulation),
        checkpoint_manager.CheckpointManager(root, config.checkpoint, step),
        tracking.RunLogger(accelerator, config, folder, step, stream.fingerprint),
    )  # fmt: skip


def fit(run: Run) -> int:
    """Train until the last step or until stopped, and save the last checkpoint; returns the exit code."""
    config, accelerator, stop, folder = run.config, run.accelerator, run.stop, run.folder
    with run.log, run.checkpoints:  # the log ends with an artifact of the last checkpoint
        for phase in run.phases:
            train_phase(run, phase)
            if stop.reason:
                break
    if run.evaluation:
        run.evaluation.write_report()
    is_saved = not accelerator.is_main_process or run.checkpoints.newest == run.step
    if accelerator.is_main_process and is_saved and stop.reason.should_requeue:
        (folder / "REQUEUE").write_text(f"{stop.reason.name} after step {run.step}\n")
    all_saved = stop.all_ranks(is_saved)  # the launcher ends all processes once one exits, so they exit together
    stop.ignore_signals()
    accelerator.end_training()
    if not all_saved:
        raise CommandFailed(f"{folder}: cannot write the last checkpoint; free some space and run this command again")
    if stop.reason:
        accelerator.print(
            f"{stop.reason.name}: stopped after step {run.step} of {config.steps}; the same command resumes: {folder}"
        )
        return stop.reason.exit_code
    accelerator.print(resume.trained_message(run.step, accelerator.num_processes, folder))
    return 0


def train_phase(run: Run, phase: optim.Phase) -> None:
    """Train, log, evaluate and save until the end of the phase or until stopped."""
    from model.training import checkpoint, clipping, fsdp, optim

    config, accelerator, stop, model, evaluation = run.config, run.accelerator, run.stop, run.model, run.evaluation
    on_main, ema = accelerator.is_main_process, run.weight_average
    optim.freeze_for_phase(model, phase.name, run.learnable)
    state = checkpoint.TrainingState(
        model,
        optim.build_optimizer(config.optim, model),
        clipping.build_gradient_clipper(config.optim, model),
        ema,
        accelerator.scaler,
    )
    if run.resume_from:
        checkpoint.restore(run.resume_from, state, same_phase=run.resume_phase == phase.name)
        run.resume_from = None
    run.meter.ideal_s_per_clip = run.ideal_s_per_clip[phase.name]
    wrapped, wrapped_optimizer = fsdp.prepare(accelerator, model, state.optimizer)
    wrapped.train()
    # An evaluation that the run was stopped in is repeated.
    late_metrics = evaluation.maybe_evaluate(phase.start, model, ema, run.log) if evaluation else {}
    if late_metrics and on_main:
        run.checkpoints.add_metrics(late_metrics)
    run.meter.restart()
    for step in range(phase.start, phase.stop):
        lr = optim.learning_rate(config.optim, step - phase.first, phase.stop - phase.first)
        optim.set_learning_rate(wrapped_optimizer, lr)
        with run.meter.data_timer():
            batches = stop.next_or_stop(run.microbatches)
        if batches is None:
            break
        run.step = step + 1
        values = train_step(run, state, wrapped, wrapped_optimizer, batches, lr)
        run.log.step()
        if values:
            run.log.add(run.step, values)
        metrics = evaluation.maybe_evaluate(run.step, model, ema, run.log) if evaluation else {}
        if metrics:
            run.meter.restart()
        if run.step % config.checkpoint.every_steps == 0 or run.step == config.steps:
            save(run, phase, state, metrics)
    if stop.reason and not stop.all_ranks(not on_main or run.step <= run.checkpoints.finish()):
        save(run, phase, state, {})
    run.model = accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
    accelerator.free_memory()


def train_step(
    run: Run,
    state: checkpoint.TrainingState,
    wrapped: nn.Module,
    optimizer: AcceleratedOptimizer,
    batches: list[HostBatch],
    lr: float,
) -> dict[str, float]:
    """Make one optimizer step. Returns the values to log, {} if this step is not logged; every rank has to call it."""
    from model.training import gradient_accumulation, throughput

    config, values = run.config, dict[str, float]()
    is_logged = run.step % config.log_every_steps == 0 or run.step == config.steps
    outputs = gradient_accumulation.accumulate_gradients(
        run.accelerator, wrapped, batches, config, run.step, run.guard, lr
    )
    if outputs:
        run.accelerator.unscale_gradients(optimizer)
        values |= throughput.gradient_norms(run.model) if is_logged else {}
        grad_norm = state.clipping.clip()
        optimizer.step()
    optimizer.zero_grad()
    if run.weight_average:
        run.weight_average.update(run.model, run.step)
    run.log.note(run.meter.add(batches))
    if not is_logged:
        return {}
    values |= gradient_accumulation.mean_values(outputs) | run.meter.read()
    values |= {"lr": lr, "skipped_steps": run.guard.skipped}
    values |= {f"lr/{group.prefix}": lr * group.lr_mult for group in config.optim.groups}
    return values | ({"grad_norm": float(grad_norm)} if outputs else {})


def save(run: Run, phase: optim.Phase, state: checkpoint.TrainingState, metrics: Mapping[str, float]) -> None:
    """Start to write a checkpoint of the current step; all ranks gather a sharded model."""
    from model.training import checkpoint, fsdp

    if run.accelerator.is_main_process or fsdp.is_sharded(run.model):
        snap = checkpoint.snapshot(run.step, phase.name, state, run.config, run.stream.fingerprint, metrics)
        if run.accelerator.is_main_process:
            run.checkpoints.add(snap)


if __name__ == "__main__":
    sys.exit(run(TrainConfig, __doc__, main))
