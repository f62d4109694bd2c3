"""Throughput, resource use and gradient norms of a run, between two lines of its history."""

import resource
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate.utils import gather_object
from torch import nn

from configs.schema import TrainConfig
from model.training.dtensor import norms
from model.training.gradient_accumulation import HostBatch
from model.training.loader_probe import LoaderProbe


class ThroughputMeter:
    """Measures clips per second, data loading time, MFU, peak memory, and rejected clips by reason.

    Args:
        clips_per_step: over all ranks.
        probe: measures what limits the run.

    Attributes:
        ideal_s_per_clip: see model.training.flops; None: MFU is not measured.
    """

    def __init__(self, clips_per_step: int, probe: LoaderProbe | None = None) -> None:
        self.clips_per_step, self._probe = clips_per_step, probe
        self.ideal_s_per_clip: float | None = None
        self.rejected: Counter[str] = Counter()
        self.restart()

    def restart(self) -> None:
        """Discard the time so far, such as that of an evaluation. Rejected clips are kept."""
        self.began, self.waited_s, self.steps = time.perf_counter(), 0.0, 0
        self._step_began, self._step_waited_s = self.began, 0.0

    @contextmanager
    def data_timer(self) -> Iterator[None]:
        """Time inside this block counts as data loading time."""
        self._step_began = time.perf_counter()
        yield
        self._step_waited_s = time.perf_counter() - self._step_began
        self.waited_s += self._step_waited_s

    def add(self, batches: Sequence[HostBatch]) -> str:
        """Count one finished step, and the clips that its batches had to replace; every rank has to call it.

        Returns:
            Once in a run, a line on what limits it (`LoaderProbe`), otherwise "".
        """
        self.steps += 1
        for batch in batches:
            self.rejected.update(batch.rejected)
        if self._probe is None:
            return ""
        return self._probe.add(time.perf_counter() - self._step_began, self._step_waited_s, batches)

    def read(self) -> dict[str, float]:
        """The values since the last call or restart; every rank has to call it.

        Returns:
            `clips_per_s` of all ranks together; `data_time_fraction`, 0 to 1, maximum over ranks; `mfu` if
            `ideal_s_per_clip` is set; `memory/host_gb` and on GPUs `memory/device_gb`, the peak since the start,
            maximum over ranks, without the loader's processes; `rejected/REASON` of all ranks together.
        """
        elapsed_s = max(time.perf_counter() - self.began, 1e-9)
        local = {
            "data_time_fraction": self.waited_s / elapsed_s,
            "memory/host_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        }
        if torch.cuda.is_available():
            local["memory/device_gb"] = torch.cuda.max_memory_allocated() / 1e9
        ranks = gather_object([(local, dict(self.rejected))])

        values = {"clips_per_s": self.steps * self.clips_per_step / elapsed_s}
        if self.ideal_s_per_clip is not None:
            values["mfu"] = values["clips_per_s"] * self.ideal_s_per_clip
        values |= {key: max(values[key] for values, _ in ranks) for key in local}
        rejected = sum((Counter(counts) for _, counts in ranks), Counter())
        values |= {f"rejected/{reason}": float(count) for reason, count in rejected.items()}
        self.rejected.clear()
        self.restart()
        return values


def build_meter(config: TrainConfig, core_limit: float) -> ThroughputMeter:
    """The meter of a run.

    Args:
        config: of the run.
        core_limit: of the control group, in cores; 0: none.
    """
    accumulation = config.gradient_accumulation_steps
    probe = LoaderProbe(config.stream, accumulation, core_limit)
    return ThroughputMeter(config.global_batch_size * accumulation, probe)


@torch.no_grad()
def gradient_norms(model: nn.Module) -> dict[str, float]:
    """`grad_norm/MODULE`: the current gradient norm of each top-level module that has gradients, such as image_encoder.

    Every rank has to call it.
    """
    by_module: dict[str, list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            by_module.setdefault(name.partition(".")[0], []).append(parameter.grad)
    return {f"grad_norm/{name}": norms(gradients).norm().item() for name, gradients in by_module.items()}
