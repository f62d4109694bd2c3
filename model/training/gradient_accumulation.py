"""The gradients of one optimizer step, accumulated over its batches."""

import contextlib
import itertools
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import torch
from accelerate import Accelerator
from torch import nn

from configs.schema import TrainConfig
from model.training.fsdp import sync_unsharded_grads
from model.training.nan_guard import NonfiniteGuard
from model.training.step import Batch, StepOutput, derive_seed, forward_loss

T = TypeVar("T")


@runtime_checkable
class HostBatch(Protocol):
    """A batch on the CPU, with the ids of its clips and the time it took: pipelines.stream.batch.HostBatch."""

    id: list[str]
    rejected: Counter[str]
    worker_s: float
    worker_cpu_s: float

    def to(self, device: torch.device) -> Batch:
        """Copy it to a device, which augments it."""


def group_microbatches(batches: Iterator[T], size: int) -> Iterator[list[T]]:
    """Group batches into the `size` batches of each step."""
    while True:
        yield list(itertools.islice(batches, size))


def accumulate_gradients(
    accelerator: Accelerator,
    wrapped: nn.Module,
    batches: Sequence[HostBatch],
    config: TrainConfig,
    step: int,
    guard: NonfiniteGuard,
    lr: float,
) -> list[StepOutput]:
    """Compute the mean gradient of a step's batches. Ranks exchange gradients with the last one.

    Random numbers are drawn from (seed, number of the batch, rank), those of the objective from (seed, number of the
    batch).

    Args:
        wrapped: the model, as `model.training.fsdp.prepare` returned it.
        batches: this rank's rows of each batch.
        step: number of the step, from 1.
        guard: checks the loss of each batch.
        lr: learning rate, for the guard's report.

    Returns:
        The output of each batch; [] if the step is skipped because of a NaN or infinite loss.
    """
    model = accelerator.unwrap_model(wrapped)
    # Autocast returns features in float32; scores are computed in the precision of the run.
    score_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision)
    outputs = []
    for number, batch in enumerate(batches, (step - 1) * config.gradient_accumulation_steps):
        torch.manual_seed(derive_seed(config.seed, number, accelerator.process_index))
        with contextlib.nullcontext() if batch is batches[-1] else accelerator.no_sync(wrapped):
            output = forward_loss(
                wrapped,
                batch.to(accelerator.device),
                model.similarity_config,
                config.loss,
                derive_seed(config.seed, number),
                config.grad_cache_chunk_size,
                score_dtype,
            )
            if guard.should_skip(step, output, batch.id, lr):
                return []
            accelerator.backward(output.loss / config.gradient_accumulation_steps)
            sync_unsharded_grads(model)
        outputs.append(output)
    return outputs


def mean_values(outputs: Sequence[StepOutput]) -> dict[str, float]:
    """The mean of each logged value over the batches that have it; every rank has to call it."""
    values = [output.values() for output in outputs]
    keys = {key: None for each in values for key in each}
    return {key: statistics.fmean(each[key] for each in values if key in each) for key in keys}
