"""The number of threads of a training process on a CPU, chosen once at the start from the cores that are free.

An operator of torch splits its loop over threads and waits for the slowest one, thousands of times in a training step.
Where another process holds the core of one of them, each wait may take a time slice of the scheduler: with two busy
processes on two cores, a step takes three times as long with two threads as with one. The last bits of losses depend on
the number of threads; OMP_NUM_THREADS, which takes precedence, keeps it the same in every run.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import Accelerator

# Of one core, for a loader worker: on a CPU workers wait for the training step most of the time.
CORES_PER_WORKER = 0.25
SAMPLE_S = 0.5
# `accelerate launch` and torchrun set OMP_NUM_THREADS where the user has not; each sets one of these too.
_SET_BY_LAUNCHERS = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")
_LAUNCHER_OPTIONS = ("--num_cpu_threads_per_process", "--num-cpu-threads-per-process")


def set_num_threads(accelerator: Accelerator, num_workers: int, cpu_limit: float) -> None:
    """On a CPU, set the number of threads of this process and print it; with a GPU, leave that of the launcher.

    Args:
        num_workers: loader workers of each process.
        cpu_limit: limit of the control group in cores; 0: none.
    """
    import torch

    if accelerator.device.type != "cpu":
        return
    if is_set_by_user(os.environ, *parent_process()):
        accelerator.print(f"threads: {torch.get_num_threads()} (OMP_NUM_THREADS)")
        return
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    free, cores = measure_free_cores()  # the other processes of the run wait here too, and have no workers yet
    torch.set_num_threads(default_num_threads(free, cpu_limit, processes, num_workers))
    limit = f", limit of the control group {cpu_limit:g}" if cpu_limit else ""
    accelerator.print(
        f"threads: {torch.get_num_threads()} ({free:.1f} of {cores} cores free{limit}, processes: {processes}, "
        f"loader workers of each: {num_workers}; set OMP_NUM_THREADS for another number)"
    )


def default_num_threads(free: float, cpu_limit: float, processes: int, num_workers: int) -> int:
    """Threads of each process, at least one.

    Args:
        free: cores of the machine that other programs leave free.
        cpu_limit: as in `set_num_threads`.
        processes: of the run on this machine.
        num_workers: as in `set_num_threads`.
    """
    available = min(free, cpu_limit) if cpu_limit else free
    return max(1, int(available / processes - CORES_PER_WORKER * num_workers + 0.5))


def measure_free_cores() -> tuple[float, int]:
    """Cores that other programs leave free during the next half second, and cores that this process may use."""
    cores = physical_cores(os.sched_getaffinity(0))
    before, began_s = cpu_seconds(Path("/proc/stat").read_text()), time.monotonic()
    time.sleep(SAMPLE_S)
    after, elapsed_s = cpu_seconds(Path("/proc/stat").read_text()), time.monotonic() - began_s
    return free_cores(cores, before, after, elapsed_s), len(cores)


def is_set_by_user(
    environ: Mapping[str, str], parent_environ: Mapping[str, str], parent_command: Iterable[str]
) -> bool:
    """Whether OMP_NUM_THREADS comes from the user, not from `accelerate launch` or torchrun.

    Args:
        environ: of this process.
        parent_environ: what its parent, perhaps a launcher, was started with.
        parent_command: command line of the parent.
    """
    if "OMP_NUM_THREADS" not in environ:
        return False
    is_launched = any(name in environ and name not in parent_environ for name in _SET_BY_LAUNCHERS)
    return (
        not is_launched
        or "OMP_NUM_THREADS" in parent_environ
        or any(word.partition("=")[0] in _LAUNCHER_OPTIONS for word in parent_command)
    )


def free_cores(
    cores: Iterable[Collection[int]], before: Mapping[int, float], after: Mapping[int, float], elapsed_s: float
) -> float:
    """Cores not used between two samples of `cpu_seconds`.

    Args:
        cores: the logical CPUs of each core.
        elapsed_s: between the samples.
    """
    used = (sum(after.get(cpu, 0) - before.get(cpu, 0) for cpu in core) / elapsed_s for core in cores)
    return sum(max(0.0, 1 - min(1.0, share)) for share in used)


def cpu_seconds(stat: str) -> dict[int, float]:
    """CPU time used so far on each logical CPU; that of processes with a positive niceness, which yield, is left out.

    Args:
        stat: content of /proc/stat.
    """
    ticks = [line.split() for line in stat.splitlines() if line.startswith("cpu") and line[3].isdigit()]
    # user nice system idle iowait irq softirq steal
    return {int(name[3:]): sum(map(int, (*v[:1], *v[2:3], *v[5:8]))) / os.sysconf("SC_CLK_TCK") for name, *v in ticks}


def physical_cores(cpus: Iterable[int], root: Path = Path("/sys/devices/system/cpu")) -> list[frozenset[int]]:
    """Logical CPUs grouped by core: two threads on one core compute hardly more than one.

    Args:
        cpus: those this process may use.
        root: description of the CPUs by the kernel; a CPU that it lacks is a core of its own.
    """
    cores = dict[str, set[int]]()
    for cpu in cpus:
        name = str(cpu)
        with contextlib.suppress(OSError):
            name = (root / f"cpu{cpu}/topology/thread_siblings_list").read_text().strip()
        cores.setdefault(name, set()).add(cpu)
    return [frozenset(core) for core in cores.values()]


def parent_process() -> tuple[dict[str, str], list[str]]:
    """Initial environment and command line of the parent process; if they cannot be read, as of one without effect."""
    folder = Path(f"/proc/{os.getppid()}")
    try:
        environ, command = (os.fsdecode((folder / name).read_bytes()).split("\0") for name in ("environ", "cmdline"))
    except OSError:
        return dict(os.environ), []
    return dict(entry.split("=", 1) for entry in environ if "=" in entry), command
