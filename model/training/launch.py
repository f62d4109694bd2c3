"""The processes of a run under Accelerate: opened with our settings, and one clear line for what goes wrong between them."""

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

if TYPE_CHECKING:
    from accelerate import Accelerator

# What gloo, NCCL and the store of addresses say when a peer is gone or silent.
_LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|timed? ?out|socket|broken pipe", re.IGNORECASE)

# The launcher's settings that change what is computed or kept, and what we do; it puts them into the environment in capitals.
_FSDP_SETTINGS = {
    "fsdp_version": "2",
    "fsdp_reshard_after_forward": "true",
    "fsdp_offload_params": "false",
    "fsdp_activation_checkpointing": "false",
}

# Those that the trainer has settings of its own for, on top of which they would come: every gradient divided once more, layers compiled twice.
_SETTINGS_OF_OURS = {
    "gradient_accumulation_steps": ("1", "gradient_accumulation_steps="),
    "dynamo_backend": ("no", "compile=true"),
}


def fsdp_requested() -> bool:
    """Whether `accelerate launch` was told distributed_type: FSDP; to be asked before create_accelerator.

    Raises:
        ValueError: a setting of fsdp_config asks for what is not there.
    """
    if os.environ.get("ACCELERATE_USE_FSDP") != "true":
        return False
    for key, allowed in _FSDP_SETTINGS.items():
        if (value := os.environ.get(key.upper(), allowed)) != allowed:
            raise ValueError(
                f"{key}={value} (from the accelerate configuration): allowed is {allowed}, as in configs/accelerate/fsdp.yaml"
            )
    return True


def create_accelerator(distributed_timeout_s: float, trackers: Sequence[str], folder: Path) -> Accelerator:
    """Meet the other processes and take precision and device from what `accelerate launch` was told.

    Args:
        distributed_timeout_s: how long a process waits for another one.
        trackers: names for Accelerate; none: nothing is tracked.
        folder: of the run.

    Raises:
        ValueError: the launch asks for what the machine cannot do.
        CommandFailed: the address where processes meet is taken, or does not answer.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    for key, (allowed, ours) in _SETTINGS_OF_OURS.items():
        if (value := os.environ.get(f"ACCELERATE_{key.upper()}", allowed).lower()) != allowed:
            raise ValueError(
                f"{key}={value} (from the accelerate configuration): allowed is {allowed}; {ours} is our setting for it"
            )
    on_cpu = (
        not torch.accelerator.is_available()
    )  # several processes on the CPU: the launcher tells its own kind of GPU processes only
    waits = InitProcessGroupKwargs(timeout=timedelta(seconds=distributed_timeout_s))
    address = f"{os.environ.get('MASTER_ADDR', 'localhost')}:{os.environ.get('MASTER_PORT', '29500')}, where the processes of the run meet,"
    silent = threading.Timer(
        distributed_timeout_s + 5,
        _give_up,
        [f"{address} is answered by something else, or by nobody, for distributed_timeout_s={distributed_timeout_s:g}"],
    )
    silent.daemon = True
    silent.start()
    os.environ.pop(
        "ACCELERATE_USE_FSDP", None
    )  # Accelerate would divide the model, and once only; model.training.fsdp does
    try:
        accelerator = Accelerator(
            cpu=on_cpu, log_with=list(trackers) or None, project_dir=folder, kwargs_handlers=[waits]
        )
    except ValueError as error:
        raise ValueError(f"{_one_line(error)} (from the accelerate configuration)") from None
    except (RuntimeError, OSError) as error:
        if "EADDRINUSE" in str(error) or "address already in use" in str(error):
            raise CommandFailed(f"{address} is taken by another program: give another main_process_port") from None
        raise CommandFailed(
            f"{address} does not answer within distributed_timeout_s={distributed_timeout_s:g}: {_one_line(error)[:160]}"
        ) from None
    finally:
        silent.cancel()
    if accelerator.mixed_precision != "no" and not accelerator.native_amp:
        raise ValueError(
            f"mixed_precision={accelerator.mixed_precision}: {accelerator.device.type} supports full precision and bf16 only"
        )
    return accelerator


def _give_up(why: str) -> None:
    """torch waits for ever for a greeting from a program that is none of ours."""
    print(f"error: {why}", file=sys.stderr, flush=True)
    os._exit(1)


@contextmanager
def report_lost_peers(distributed_timeout_s: float) -> Iterator[None]:
    """Inside this block, a process that died or hangs ends the others with one line.

    Raises:
        CommandFailed: a collective failed.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, CommandFailed) or not _LOST.search(str(error)):
            raise
        rank = os.environ.get("RANK", "0")
        raise CommandFailed(
            f"rank {rank}: another process of the run has ended or did not answer within distributed_timeout_s={distributed_timeout_s:g} ({_one_line(error)[:120]}); "
            "start the run again to go on from its last checkpoint"
        ) from None


def _one_line(error: BaseException) -> str:
    return re.sub(r"^\[\S*\] ", "", " ".join(str(error).split()))  # without the place in torch's own source
