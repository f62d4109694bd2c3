"""Limits of Linux control groups, versions 1 and 2."""

import pytest

from pipelines.cgroup import cgroup_limit


@pytest.mark.parametrize(
    ("groups", "files", "cores", "memory_bytes"),
    [
        (
            "0::/job/step",
            {
                "job/cpu.max": "250000 100000",
                "job/step/cpu.max": "max 100000",
                "job/memory.max": "max",
                "job/step/memory.max": "4096",
            },
            2.5,
            4096,
        ),
        ("0::/job", {"job/cpu.max": "400000 100000", "cpu.max": "150000 100000"}, 1.5, 0),
        (
            "5:cpu,cpuacct:/pod\n4:memory:/pod\n",
            {
                "cpu,cpuacct/pod/cpu.cfs_quota_us": "300000",
                "cpu,cpuacct/pod/cpu.cfs_period_us": "100000",
                "memory/pod/memory.limit_in_bytes": "8192",
            },
            3.0,
            8192,
        ),
        (
            "5:cpu:/\n4:memory:/",
            {
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            0,
            0,
        ),
        ("0::/../..", {}, 0, 0),
    ],
    ids=["v2", "parent group", "v1", "no limit", "group outside the mount"],
)
def test_the_tightest_limit_of_all_control_groups_counts(tmp_path, groups, files, cores, memory_bytes):
    (tmp_path / "groups").write_text(groups)
    for name, text in files.items():
        (tmp_path / "mount" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mount" / name).write_text(text + "\n")
    assert cgroup_limit("cpu", tmp_path / "groups", tmp_path / "mount") == cores
    assert cgroup_limit("memory", tmp_path / "groups", tmp_path / "mount") == memory_bytes
