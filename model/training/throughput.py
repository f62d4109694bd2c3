"""How fast a run is and what it uses, measured between two lines of its history; and how large its gradients are."""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from model.training.dtensor import norms


class ThroughputMeter:
    """Clips a second, the share of time spent waiting for data, the share of the GPUs used, peak memory, rejected clips by reason.

    Args:
        clips_per_step: global.
    """

    def __init__(self, clips_per_step: int) -> None:
        self.clips_per_step, self.ideal_s_per_clip = clips_per_step, None
        self.rejected: Counter[str] = Counter()
        self.restart()

    def restart(self) -> None:
        """Measure from now on: what went before, such as an evaluation, was no training. Rejected clips still count."""
        self.began, self.waited_s, self.steps = time.perf_counter(), 0.0, 0

    @contextmanager
    def data_timer(self) -> Iterator[None]:
        """Time inside this block counts as waiting for data."""
        began = time.perf_counter()
        yield
        self.waited_s += time.perf_counter() - began

    def add(self, rejected: Mapping[str, int]) -> None:
        """Count one finished step and the clips its batch had to replace."""
        self.steps += 1
        self.rejected.update(rejected)

    def read(self) -> dict[str, float]:
        """The figures since the last call or restart; every rank has to call it.

        Returns:
            `clips_per_s` of all ranks; `data_time_fraction` of the rank that waited longest; `mfu` where `ideal_s_per_clip` is known (model.training.flops);
            `memory/host_gb` and on GPUs `memory/device_gb`, the highest of all ranks since their start, of the training processes without the loader's;
            `rejected/REASON` of all ranks together.
        """
        elapsed_s = max(time.perf_counter() - self.began, 1e-9)
        from accelerate.utils import gather_object

        own = {
            "data_time_fraction": self.waited_s / elapsed_s,
            "memory/host_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        }
        if torch.cuda.is_available():
            own["memory/device_gb"] = torch.cuda.max_memory_allocated() / 1e9
        ranks = gather_object([(own, dict(self.rejected))])

        values = {"clips_per_s": self.steps * self.clips_per_step / elapsed_s}
        if self.ideal_s_per_clip is not None:
            values["mfu"] = values["clips_per_s"] * self.ideal_s_per_clip
        values |= {key: max(found[key] for found, _ in ranks) for key in own}
        rejected = sum((Counter(counts) for _, counts in ranks), Counter())
        values |= {f"rejected/{reason}": float(count) for reason, count in rejected.items()}
        self.rejected.clear()
        self.restart()
        return values


@torch.no_grad()
def gradient_norms(model: nn.Module) -> dict[str, float]:
    """`grad_norm/PART`: the norm of the gradients of each part of the model that has any, such as image_encoder, as they are now; every rank has to call it."""
    by_part: dict[str, list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            by_part.setdefault(name.partition(".")[0], []).append(parameter.grad)
    return {f"grad_norm/{part}": norms(gradients).norm().item() for part, gradients in by_part.items()}
