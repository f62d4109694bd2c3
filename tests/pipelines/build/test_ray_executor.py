"""Builds on a Ray cluster, with nodes and commands that are killed, give byte-identical shards."""

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from paths import ROOT
from tiny_builds import (
    SHARDS,
    build,
    contents,
    running,
    start,
    wait,
    words,
    write_long_media,
    write_media,
)


@pytest.fixture(scope="module")
def long_media(tmp_path_factory):
    return write_long_media(tmp_path_factory.mktemp("long_media"))


@pytest.fixture(scope="module")
def long_built(long_media, tmp_path_factory):
    out = tmp_path_factory.mktemp("long_built") / "out"
    assert build(long_media, out).returncode == 0
    return contents(out)


@pytest.fixture
def _ray_lock():
    """One test at a time on this machine starts a Ray cluster or looks for one."""
    with (Path(tempfile.gettempdir()) / "denseav-tests-ray.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _lines(errors: str) -> list[str]:
    """The lines that a command has printed to stderr, without progress bars."""
    return [line for line in re.split(r"[\r\n]", errors) if line and not line.startswith(("shards:", "rows:"))]


@pytest.mark.usefixtures("_ray_lock")
@pytest.mark.slow
def test_local_ray_cluster_builds_the_same_shards_and_leaves_no_process(media, built_files, tmp_path):
    env = {"HOME": str(tmp_path), "RAY_ADDRESS": ""}
    process = start(media, tmp_path / "out", "executor=ray", env=env)
    printed, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    assert f"in {SHARDS} shards" in printed and not _lines(errors) and "40/40" in errors
    assert contents(tmp_path / "out") == built_files
    wait(lambda: not running(process))
    assert not (tmp_path / ".ray").exists()


@pytest.mark.usefixtures("_ray_lock")
@pytest.mark.parametrize(
    ("address", "code", "message"),
    [
        ("127.0.0.1:9", 1, "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:9"),
        ("auto", 1, "Could not find any running Ray instance"),
        ("head", 2, "RAY_ADDRESS='head' is not HOST:PORT"),
        ("ray://127.0.0.1:10001", 2, "RAY_ADDRESS='ray://127.0.0.1:10001' is not HOST:PORT"),
    ],
)
def test_missing_ray_cluster_is_a_one_line_error(media, tmp_path, address, code, message):
    done = build(media, tmp_path / "out", "executor=ray", env={"RAY_ADDRESS": address, "RAY_TMPDIR": str(tmp_path)})
    assert done.returncode == code and len(_lines(done.stderr)) == 1 and message in done.stderr


@pytest.fixture
def cluster(_ray_lock):
    """A head without cores and two nodes of one core each, without the path of this project in their environment."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": 100 << 20},
    )
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    yield cluster
    cluster.shutdown()


def _processes_of(node) -> dict[int, str]:
    """Command lines by process id of the raylet of a node and its descendants."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            children.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    pids = [node.all_processes["raylet"][0].process.pid]
    for pid in pids:
        pids += children.get(pid, [])
    return {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in pids if Path(f"/proc/{pid}").exists()}


def _runs(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.slow
def test_killed_ray_node_does_not_change_the_shards(cluster, long_media, long_built, tmp_path):
    out = tmp_path / "out"
    env = {"RAY_ADDRESS": cluster.address, "PYTHONPATH": str(ROOT)}
    process = start(long_media, out, "executor=ray", env=env, cwd=tmp_path)
    wait(lambda: len(list(out.glob("train-*.json"))) >= 2, seconds=60)
    lost, remaining = cluster.worker_nodes
    processes = _processes_of(lost)
    decoders = {number for number, line in processes.items() if "multiprocessing" in line}
    assert decoders, "the node has no decoding process yet"
    for number in processes.keys() - decoders:
        os.kill(number, signal.SIGKILL)
    assert not (out / "manifest.json").exists()
    printed, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert not _lines(errors) and f"in {SHARDS} shards" in printed
    assert contents(out) == long_built
    wait(lambda: not any(map(_runs, processes)))
    assert _processes_of(remaining)


@pytest.mark.slow
@pytest.mark.usefixtures("_ray_lock")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_build_on_ray_leaves_no_process_and_resumes(long_media, long_built, tmp_path, sent):
    out = tmp_path / "out"
    process = start(long_media, out, "executor=ray", env={"RAY_ADDRESS": ""})
    wait(lambda: list(out.glob("train-*.json")), seconds=60)
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)  # Ctrl-C reaches all processes of a terminal
    else:
        process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0 and "Traceback" not in errors
    if sent == signal.SIGINT:
        assert process.returncode == 130 and _lines(errors) == ["interrupted: run the same command again"]
    # agents of Ray, which end after 60 s
    agents = ("ray::DashboardAgent", "ray::RuntimeEnvAgent") if sent == signal.SIGKILL else ()
    wait(lambda: not [line for line in running(process).values() if not line.startswith(agents)], seconds=30)
    assert not (out / "manifest.json").exists()
    assert build(long_media, out).returncode == 0
    assert contents(out) == long_built


@pytest.mark.slow
def test_lost_media_on_ray_are_a_one_line_error(cluster, long_media, tmp_path):
    root, out = tmp_path / "mount", tmp_path / "out"
    root.symlink_to(long_media)
    process = start(root, out, "executor=ray", env={"RAY_ADDRESS": cluster.address})
    wait(lambda: list(out.glob("train-*.json")), seconds=60)
    root.unlink()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and len(_lines(errors)) == 1
    # within a shard, or before the next
    assert re.search(r"the storage failed at |the Ray node \S+ does not have ", errors), errors
    assert not (out / "manifest.json").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("_ray_lock")
def test_full_disk_on_ray_is_a_one_line_error(media, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    if subprocess.run(
        ["unshare", "--mount", "--map-root-user", "mount", "-t", "tmpfs", "none", str(out)],
        capture_output=True,
        check=False,
    ).returncode:
        pytest.skip("no right to mount a small disk")
    arguments = " ".join(words(media, out, "executor=ray"))
    script = f"mount -t tmpfs -o size=300k none {out} && cd {ROOT} && exec {sys.executable} -m {arguments}"
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script],
        env={**os.environ, "RAY_ADDRESS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and len(_lines(done.stderr)) == 1, done.stderr
    assert "No space left on device" in done.stderr
    assert "make room or give another folder, then run the same command again" in done.stderr


@pytest.mark.slow
def test_ray_node_without_the_media_is_named(cluster, tmp_path):
    """The media folder of the node is empty, as if a disk were not mounted: all its clips would be missing."""
    media, empty = tmp_path / "media", tmp_path / "empty"
    media.mkdir()
    write_media(media)
    empty.mkdir()
    if subprocess.run(
        ["unshare", "--mount", "--map-root-user", "mount", "--bind", str(empty), str(media)],
        capture_output=True,
        check=False,
    ).returncode:
        pytest.skip("no right to mount")
    for node in list(cluster.worker_nodes):
        cluster.remove_node(node)
    ray = Path(sys.executable).with_name("ray")
    options = f"--address={cluster.address} --num-cpus=1 --object-store-memory=100000000 --block"
    script = f"mount --bind {empty} {media} && exec {ray} start {options}"
    node = subprocess.Popen(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        done = build(media, tmp_path / "out", "executor=ray", env={"RAY_ADDRESS": cluster.address})
    finally:
        node.terminate()
        node.wait()
    assert done.returncode == 1 and len(_lines(done.stderr)) == 1
    assert re.search(
        r"the Ray node \S+ does not have \S+/media/v\d\d.mp4; all nodes need source.root under the same path",
        done.stderr,
    ), done.stderr
    assert not list((tmp_path / "out").glob("train-*"))
