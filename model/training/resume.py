"""Check whether a run may resume from a checkpoint, or is finished. Needs no torch, whose import takes seconds."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.atomic_write import atomic_open, locked_run_dir
from configs.load import diff_configs, load_stored, to_yaml
from configs.schema import TrainConfig
from model.training.checkpoint_folder import find_corruption, step_folders, step_of

# Settings that may change when a run resumes: they do not affect the steps already made.
RESUMABLE_CHANGES = (
    "out",
    "name",
    "overwrite",
    "allow_changes",
    "log_every_steps",
    "tracker",
    "checkpoint",
    "evaluate",
    "nonfinite_loss_action",
    "compile",
    "grad_cache_chunk_size",
    "time_limit_min",
    "distributed_timeout_s",
    "stream.num_workers",
    "stream.prefetch_factor",
    "stream.max_error_rate",
    "stream.cache_dir",
    "stream.cache_gb",
)


# Settings that may change with `allow_changes`: they make another run from here on, but one that is defined.
ALLOWABLE_CHANGES = ("steps", "optim", "loss", "stream.augment")

# Number of processes, as launchers set it.
_WORLD_SIZE_KEYS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def set_aside(config: TrainConfig, folder: Path) -> None:
    """With `overwrite`, rename the folder of an earlier run to NAME.1, NAME.2, ...; on the first rank only.

    A run that was preempted, which has the file REQUEUE, stays: the scheduler starts the same command again.

    Raises:
        ValueError: another command is writing the folder.
    """
    if not config.overwrite or os.environ.get("RANK", "0") != "0" or not folder.is_dir():
        return
    if (folder / "REQUEUE").exists() or not any(folder.iterdir()):
        return
    with locked_run_dir(folder):
        numbers = (int(path.suffix[1:]) for path in folder.parent.glob(f"{folder.name}.*") if path.suffix[1:].isdigit())
        aside = folder.with_name(f"{folder.name}.{max(numbers, default=0) + 1}")
        folder.rename(aside)
    print(f"overwrite=true: the earlier run is set aside as {aside}")


def is_finished(config: TrainConfig, folder: Path, fingerprint: Callable[[], Mapping[str, Any]]) -> bool:
    """Whether all steps of a run are done, and if so print what a resumed run would print.

    Returns False for several processes, which would have to agree first.

    Args:
        config: settings of the run.
        folder: of the run.
        fingerprint: returns that of its stream.

    Raises:
        ValueError: as `read_state`, or another command is writing the folder.
    """
    newest = next(iter(step_folders(folder / "checkpoints")), None)
    if newest is None or step_of(newest) < config.steps or any(os.environ.get(k, "1") != "1" for k in _WORLD_SIZE_KEYS):
        return False
    with locked_run_dir(folder):
        if find_corruption(newest):
            return False
        step = read_state(newest, config, fingerprint())["step"]
        write_run_config(folder, config)
    print(resume_message(newest, step, config))
    print(trained_message(step, 1, folder))
    return True


def resume_message(checkpoint: Path, step: int, config: TrainConfig) -> str:
    """The line that a resumed run starts with."""
    finished = f": steps={config.steps} are done, there is nothing to do" if step >= config.steps else ""
    return f"resuming after step {step} of {checkpoint}{finished}"


def trained_message(step: int, world_size: int, folder: Path) -> str:
    """The line that a completed run ends with."""
    return f"trained {step} steps on {world_size} process{'' if world_size == 1 else 'es'}: {folder}"


def read_state(folder: Path, config: TrainConfig, fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Read state.json of a checkpoint and check that a run with these settings and data may resume from it.

    Args:
        folder: a valid checkpoint.
        config: settings of the resumed run.
        fingerprint: of its stream.

    Raises:
        ValueError: a setting or a data set has changed; the message names each with both values. Or this machine does
            not see the folder, or another version of the program wrote it.
    """
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is not on this machine: out={config.out} must be a folder that all machines of the run share"
        )
    state: dict[str, Any] = json.loads((folder / "state.json").read_text())
    before = load_stored(TrainConfig, state["config"], str(folder))
    # Shards may move: the stream's fingerprint covers their content.
    moved = [f"stream.sources.{number}.shards" for number in range(len(config.stream.sources))]
    steps = [] if config.optim.schedule == "cosine" else ["steps"]
    ignored = [*RESUMABLE_CHANGES, *moved, *steps, *config.allow_changes]
    changes = diff_configs(before, config, ignored) or diff_configs(
        state["stream"], json.loads(json.dumps(fingerprint))
    )
    if changes:
        raise ValueError(
            f"{folder} was written with other settings ({'; '.join(changes)}): restore them{_allow(changes)}, or give "
            f"the run another name={_start_from(folder, changes)}"
        )
    return state


def _allow(changes: Sequence[str]) -> str:
    """How to resume with these changes all the same, where that is possible."""
    sections = {next((s for s in ALLOWABLE_CHANGES if re.match(rf"{s}[.:]", change)), "") for change in changes}
    return "" if "" in sections else f", allow them with allow_changes=[{','.join(sorted(sections))}]"


def _start_from(folder: Path, changes: Sequence[str]) -> str:
    is_other_data = any(".data_set: " in change for change in changes)
    return f" and init_checkpoint={folder}: the data set was extended or built again" if is_other_data else ""


def write_run_config(folder: Path, config: TrainConfig) -> None:
    """Write the resolved settings to config.yaml of a run folder, and remove REQUEUE, the marker of a preempted run."""
    (folder / "REQUEUE").unlink(missing_ok=True)
    with atomic_open(folder / "config.yaml") as file:
        file.write(to_yaml(config).encode())
