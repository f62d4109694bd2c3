"""Measures the first steps of a run, and says once what limits it and how many loader workers would do."""

import os
import socket
from collections.abc import Sequence

from accelerate.utils import gather_object

from configs.schema import StreamConfig
from model.training.gradient_accumulation import HostBatch
from model.training.loader_advice import StepTimes, cores_per_rank, describe_limit

MEASURED_STEPS = 20
# The first steps of a process allocate memory, and compile.
_MIN_SKIPPED_STEPS = 2


class LoaderProbe:
    """Mean times of MEASURED_STEPS steps, after those whose batches were loaded before the first step.

    Args:
        config: the `stream` settings.
        batches_per_step: gradient accumulation steps.
        core_limit: of the control group, in cores; 0: none.
    """

    def __init__(self, config: StreamConfig, batches_per_step: int, core_limit: float = 0.0) -> None:
        self._num_workers, self._core_limit = config.num_workers, core_limit
        loaded_ahead = -(-config.num_workers * config.prefetch_factor // batches_per_step)
        self._skipped = max(loaded_ahead, _MIN_SKIPPED_STEPS)
        self._steps = 0
        self._sums = StepTimes(0.0, 0.0, 0.0, 0.0, 0.0)

    def add(self, step_s: float, waited_s: float, batches: Sequence[HostBatch]) -> str:
        """Count a step; every rank has to call it.

        Args:
            step_s: with its wait for data.
            waited_s: for data.
            batches: of this rank.

        Returns:
            A line about all ranks after the last measured step, otherwise "".
        """
        self._steps += 1
        if not 0 < self._steps - self._skipped <= MEASURED_STEPS:
            return ""
        added = StepTimes(
            sum(len(batch.id) for batch in batches),
            step_s,
            waited_s,
            sum(batch.worker_s for batch in batches),
            sum(batch.worker_cpu_s for batch in batches),
        )
        self._sums = StepTimes(*(a + b for a, b in zip(self._sums, added, strict=True)))
        return self._report() if self._steps == self._skipped + MEASURED_STEPS else ""

    def _report(self) -> str:
        times = StepTimes(*(value / MEASURED_STEPS for value in self._sums))
        ranks = gather_object([(times, socket.gethostname(), os.sched_getaffinity(0))])
        times, machine, _ = max(ranks, key=lambda rank: rank[0].data_time_fraction)
        cores = cores_per_rank([affinity for _, name, affinity in ranks if name == machine], self._core_limit)
        return describe_limit(times, self._num_workers, cores)
