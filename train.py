"""Train a DenseAV on shards: `accelerate launch --config_file configs/accelerate/X.yaml train.py config=configs/train/Y.yaml key=value ...`

A run lives in OUT/NAME: config.yaml, checkpoints/step_XXXXXXXX/, history.jsonl. The same command again goes on from the newest whole
checkpoint, on any number of processes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from configs.command import UsageError, run
from configs.load import to_yaml
from configs.schema import TrainConfig


def main(config: TrainConfig) -> int:
    """Build the parts, then load, step, log and save until the last step."""
    import torch
    from accelerate import Accelerator
    from accelerate.utils import broadcast_object_list
    from tqdm import tqdm

    from model.build import build_denseav
    from model.grounding.denseav import InputSpec
    from model.training.checkpoint import newest_checkpoint, prune, read_state, restore, save, set_aside_newer
    from model.training.optim import clip_each_parameter, freeze_for_phase, learning_rate, make_optimizer, phases_from, set_learning_rate
    from model.training.step import forward_loss, seed_of
    from model.training.tracking import History, Meter, tracker_names
    from pipelines.stream.loader import open_stream

    # ---- the parts
    folder = Path(config.out) / config.name
    on_cpu = not torch.accelerator.is_available()  # several processes on the CPU: the launcher tells its own kind of GPU processes only
    accelerator = Accelerator(cpu=on_cpu, log_with=tracker_names(config.tracker) or None, project_dir=folder)
    rank, world_size, on_main = accelerator.process_index, accelerator.num_processes, accelerator.is_main_process
    if config.batch_size % world_size:
        raise UsageError(f"batch_size={config.batch_size} (global) must be a multiple of the {world_size} processes launched")
    stream = open_stream(config.stream, config.seed, config.batch_size)
    torch.manual_seed(config.seed)
    model = build_denseav(config.model, InputSpec(config.stream.image_size_px, config.stream.clip_duration_s, config.stream.sample_rate_hz))
    learnable = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)

    # ---- where the run stands
    newest = broadcast_object_list([newest_checkpoint(folder / "checkpoints") if on_main else None])[0]
    state = read_state(newest, config, stream.fingerprint) if newest else {"step": 0, "phase": None}
    start = state["step"]
    if newest:
        accelerator.print(f"going on after step {start} of {newest}")
    if on_main:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(to_yaml(config))
        set_aside_newer(folder / "checkpoints", start)
    history = History(folder / "history.jsonl", start) if on_main else None
    accelerator.init_trackers("denseav", config={"yaml": to_yaml(config)}, init_kwargs={"wandb": {"name": config.name, "dir": str(folder)}})

    # ---- the loop
    batches = stream.batches(rank, world_size, start_step=start)
    meter = Meter(config.batch_size)
    bar = tqdm(total=config.steps, initial=start, unit="step", disable=not on_main, mininterval=1.0, dynamic_ncols=True)
    for phase in phases_from(start, config.projection_steps, config.steps):
        freeze_for_phase(model, phase.name, learnable)
        optimizer = make_optimizer(config.optim, model)
        if newest:
            restore(newest, model, optimizer if state["phase"] == phase.name else None, accelerator.scaler)
            newest = None
        wrapped, prepared = accelerator.prepare(model, optimizer)
        wrapped.train()
        for step in range(phase.start, phase.stop):
            lr = set_learning_rate(prepared, learning_rate(config.optim, step - phase.first, phase.stop - phase.first))
            with meter.waiting():
                batch = next(batches).to(accelerator.device)
            torch.manual_seed(seed_of(config.seed, step, rank))
            output = forward_loss(wrapped, batch, model.score_settings, config.loss, seed_of(config.seed, step))
            output.check_finite(step + 1, batch.id)
            accelerator.backward(output.loss)
            accelerator.unscale_gradients(prepared)
            grad_norm = clip_each_parameter(model.parameters(), config.optim.max_parameter_norm)
            prepared.step()
            prepared.zero_grad()
            meter.add(batch.rejected)

            done = step + 1
            bar.update()
            if done % config.log_every_steps == 0 or done == config.steps:
                values = output.values() | meter.read() | {"lr": lr, "grad_norm": float(grad_norm)}
                accelerator.log(values, step=done)
                bar.set_postfix_str(f"loss {values['loss/total']:.3f}  {values['clips_per_s']:.0f} clips/s  waiting {values['data_wait_share']:.0%}")
                if history:
                    history.add(done, values)
            if done % config.checkpoint.every_steps == 0 or done == config.steps:
                if on_main:
                    save(folder / "checkpoints", done, phase.name, model, optimizer, accelerator.scaler, config, stream.fingerprint)
                    prune(folder / "checkpoints", config.checkpoint.keep_last)
                accelerator.wait_for_everyone()
        model = accelerator.unwrap_model(wrapped)
        accelerator.free_memory()
    bar.close()
    accelerator.end_training()
    accelerator.print(f"trained {max(start, config.steps)} steps on {world_size} process{'' if world_size == 1 else 'es'}: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(run(TrainConfig, __doc__, main))
