"""Set up the processes of a run with Accelerate, and report communication errors in one line."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import CommandFailed
from model.training.cpu_threads import parent_process

if TYPE_CHECKING:
    from accelerate import Accelerator

# In error messages of gloo, NCCL and torch's TCP store when a peer has ended or does not answer.
_LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|timed? ?out|socket|broken pipe", re.IGNORECASE)

# Settings of `accelerate launch` that would change results, and the only supported values; passed in the environment in
# capitals.
_FSDP_SETTINGS = {
    "fsdp_version": "2",
    "fsdp_reshard_after_forward": "true",
    "fsdp_offload_params": "false",
    "fsdp_activation_checkpointing": "false",
}

# Settings of `accelerate launch`, their only supported values, and the trainer's settings to use instead. Both together
# would scale gradients twice or compile layers twice.
_TRAINER_SETTINGS = {
    "gradient_accumulation_steps": ("1", "gradient_accumulation_steps="),
    "dynamo_backend": ("no", "compile=true"),
}


def fsdp_requested() -> bool:
    """Whether `accelerate launch` has distributed_type: FSDP; to be called before create_accelerator.

    Raises:
        ValueError: an unsupported value in fsdp_config.
    """
    if os.environ.get("ACCELERATE_USE_FSDP") != "true":
        return False
    for key, allowed in _FSDP_SETTINGS.items():
        if (value := os.environ.get(key.upper(), allowed)) != allowed:
            raise ValueError(
                f"{key}={value} (from the accelerate configuration): allowed is {allowed}, "
                "as in configs/accelerate/fsdp.yaml"
            )
    return True


def warnings(world_size: int) -> list[str]:
    """What is unusual about the launch.

    Args:
        world_size: number of processes of the run.
    """
    asked = asked_processes(parent_process()[1])
    if world_size > 1 or asked <= 1:
        return []
    return [
        f"--num_processes {asked} was given, but one process runs: accelerate launches one wherever it finds no GPU; "
        "--multi_gpu --num_processes N starts N of them on a CPU too"
    ]


def asked_processes(command: Sequence[str]) -> int:
    """The number of processes in a command line of `accelerate launch`, or in its --config_file; 1 if neither has it.

    Args:
        command: of the launcher.
    """
    options = dict(_options(command))
    if "num_processes" in options:
        return _number(options["num_processes"])
    try:
        text = Path(options["config_file"]).read_text()
    except (KeyError, OSError, UnicodeDecodeError):
        return 1
    found = re.search(r"^num_processes: *(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 1


def _options(command: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Long options of a command line with their values, dashes inside names as underscores."""
    for word, following in zip(command, [*command[1:], ""], strict=True):
        if word.startswith("--"):
            name, has_value, value = word[2:].partition("=")
            yield name.replace("-", "_"), value if has_value else following


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 1


def create_accelerator(distributed_timeout_s: float, trackers: Sequence[str], folder: Path) -> Accelerator:
    """Connect to the other processes, with device and precision from `accelerate launch`.

    Args:
        distributed_timeout_s: how long a process waits for another one.
        trackers: names of Accelerate's trackers.
        folder: of the run.

    Raises:
        ValueError: the machine does not support the launch configuration.
        CommandFailed: the rendezvous address is in use, or does not answer.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    for key, (allowed, setting) in _TRAINER_SETTINGS.items():
        if (value := os.environ.get(f"ACCELERATE_{key.upper()}", allowed).lower()) != allowed:
            raise ValueError(
                f"{key}={value} (from the accelerate configuration): allowed is {allowed}; set {setting} instead"
            )
    setting = f"distributed_timeout_s={distributed_timeout_s:g}"
    host, port = os.environ.get("MASTER_ADDR", "localhost"), os.environ.get("MASTER_PORT", "29500")
    address = f"rendezvous address {host}:{port}"
    watchdog = threading.Timer(
        distributed_timeout_s + 5, _abort, [f"{address} belongs to another program or did not answer within {setting}"]
    )
    watchdog.daemon = True
    watchdog.start()
    # Accelerate would shard the model, and only once per run; model.training.fsdp shards it instead.
    os.environ.pop("ACCELERATE_USE_FSDP", None)
    try:
        accelerator = Accelerator(
            # Explicit, because the launcher's own use_cpu does not reach several processes.
            cpu=not torch.accelerator.is_available(),
            log_with=list(trackers) or None,
            project_dir=folder,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=distributed_timeout_s))],
        )
    except ValueError as error:
        raise ValueError(f"{_one_line(error)} (from the accelerate configuration)") from None
    except (RuntimeError, OSError) as error:
        if "EADDRINUSE" in str(error) or "address already in use" in str(error):
            raise CommandFailed(f"{address} is in use by another program: set another main_process_port") from None
        raise CommandFailed(f"{address} does not answer within {setting}: {_one_line(error)[:160]}") from None
    finally:
        watchdog.cancel()
    if accelerator.mixed_precision != "no" and not accelerator.native_amp:
        raise ValueError(
            f"mixed_precision={accelerator.mixed_precision} is not supported on {accelerator.device.type}: "
            "allowed are no and bf16"
        )
    return accelerator


def _abort(message: str) -> None:
    """End the process: torch waits forever for an answer from a program that is not its store."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(1)


@contextmanager
def report_lost_peers(distributed_timeout_s: float) -> Iterator[None]:
    """Inside this block, a failed collective is reported in one line, as the end of another process.

    Raises:
        CommandFailed: a collective failed because another process ended or hangs.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, CommandFailed) or not _LOST.search(str(error)):
            raise
        raise CommandFailed(
            f"rank {os.environ.get('RANK', '0')}: another process of the run has ended or did not answer within "
            f"distributed_timeout_s={distributed_timeout_s:g} ({_one_line(error)[:120]}); "
            "run the same command again to resume from the last checkpoint"
        ) from None


def _one_line(error: BaseException) -> str:
    return re.sub(r"^\[\S*\] ", "", " ".join(str(error).split()))  # without the position in torch's source
