"""What limits a run, its data or its device, and how many loader workers it needs: pure functions of measured times."""

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

# A device that waits longer than this fraction of the time is limited by its data.
MAX_DATA_TIME_FRACTION = 0.05
# Workers are advised for this much more than the device takes: clips differ, and a batch has to be there in time.
_MARGIN = 1.15


class StepTimes(NamedTuple):
    """Mean times of the steps of one rank.

    Attributes:
        clips: of a step, on this rank.
        step_s: a step with its wait for data, without evaluation and saving.
        waited_s: part of step_s in which the rank waited for data.
        worker_s: time in which one worker makes the clips of a step.
        worker_cpu_s: CPU time of that.
    """

    clips: float
    step_s: float
    waited_s: float
    worker_s: float
    worker_cpu_s: float

    @property
    def data_time_fraction(self) -> float:
        """Fraction of the time in which the rank waits for data, 0 to 1."""
        return self.waited_s / max(self.step_s, 1e-9)

    @property
    def device_s(self) -> float:
        """Time of a step if its data were there."""
        return max(self.step_s - self.waited_s, 1e-9)


def workers_needed(times: StepTimes) -> int:
    """Loader workers that make clips faster than the device takes them."""
    return max(1, math.ceil(_MARGIN * times.worker_s / times.device_s - 1e-6))


def workers_that_fit(times: StepTimes, cores: float) -> int:
    """Loader workers that a rank's cores can keep busy, one core left to the training process; at least 1.

    A worker that waits for a disk or a store takes less than a core.
    """
    cores_per_worker = min(max(times.worker_cpu_s / max(times.worker_s, 1e-9), 0.05), 1.0)
    return max(1, math.floor((cores - 1) / cores_per_worker + 1e-6))


def describe_limit(times: StepTimes, num_workers: int, cores: float) -> str:
    """One line: what limits the run, and which stream.num_workers would do.

    Args:
        times: of the rank that waits longest.
        num_workers: of each rank, as configured; 0: the training process loads.
        cores: of the machine, for each of its ranks.
    """
    device, worker = times.clips / times.device_s, times.clips / max(times.worker_s, 1e-9)
    needed, most = workers_needed(times), workers_that_fit(times, cores)
    rates = (
        f"a rank waits for data {times.data_time_fraction:.0%} of the time; its device takes {device:.3g} clips/s, "
        f"a worker makes {worker:.3g}"
    )
    if times.data_time_fraction <= MAX_DATA_TIME_FRACTION:
        limit = "the device limits this run" if num_workers >= needed else "data loading and device are balanced"
        advice = f"stream.num_workers={min(needed, max(num_workers, 1))} is enough"
        return f"{limit}: {rates}; {advice}"
    if needed > most:
        advice = (
            f"{needed} workers are needed, but {cores:.3g} cores a rank keep {most} busy: set "
            f"stream.num_workers={most}, and use more cores, decode.audio_format=wav or a smaller stream.image_size_px"
        )
    elif needed > num_workers:
        advice = f"set stream.num_workers={needed}"
    else:
        advice = (
            f"stream.num_workers={num_workers} makes enough on average: a store or disk that is slow at times, or "
            "other processes on the cores, hold it up; set a larger stream.prefetch_factor"
        )
    return f"data loading limits this run: {rates}; {advice}"


def cores_per_rank(affinities: Sequence[Collection[int]], core_limit: float = 0.0) -> float:
    """Cores of a machine for each of its ranks.

    Args:
        affinities: numbers of the cores that each rank of the machine may use; they may share them.
        core_limit: of the control group of the ranks, in cores; 0: none.
    """
    cores = len(set().union(*affinities))
    return min(cores, core_limit or cores) / len(affinities)
