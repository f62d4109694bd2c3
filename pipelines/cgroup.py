"""CPU and memory limits that a container or batch system sets on this process by Linux control groups."""

import contextlib
from pathlib import Path

_MAX_LIMIT_BYTES = 1 << 60  # cgroup v1 writes a number near 2 ** 63 for no limit


def cgroup_limit(
    resource_name: str, groups: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")
) -> float:
    """The tightest limit on this process in its control group and the groups above it, cgroup v1 or v2.

    Args:
        resource_name: cpu (in cores) or memory (in bytes).
        groups: the file with the groups of this process.
        mount: where the control groups are mounted.

    Returns:
        0 if there is no limit.
    """
    limits = []
    for line in groups.read_text().splitlines() if groups.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and resource_name not in controllers.split(","):
            continue
        top = mount / controllers if (mount / controllers).is_dir() else mount / resource_name
        parts = [part for part in path.split("/") if part not in ("", "..")]
        limits += [_group_limit(top.joinpath(*parts[:depth]), resource_name) for depth in range(len(parts) + 1)]
    return min((limit for limit in limits if limit > 0), default=0.0)


def _group_limit(group: Path, resource_name: str) -> float:
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        if resource_name == "memory":
            v2, v1 = group / "memory.max", group / "memory.limit_in_bytes"
            limit_bytes = float((v2 if v2.is_file() else v1).read_text())
            return limit_bytes if limit_bytes < _MAX_LIMIT_BYTES else 0.0
        names = ["cpu.max"] if (group / "cpu.max").is_file() else ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        quota, period = " ".join((group / name).read_text() for name in names).split()
        return float(quota) / float(period)
    return 0.0
