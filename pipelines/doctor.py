"""Check whether this machine can build shards: `python -m pipelines.doctor` prints one line for each check.

A line begins with ok, missing (building needs it: exit code 1) or optional. `shards=DIR` also measures a loader worker
on these shards, and prints the workers that a GPU needs. Doctor runs in a bare Python, without any package. Packages
are imported in processes of their own, because a broken native library may crash its process. Limits: `accelerate env`
reports torch, CUDA and GPUs; remote folders are contacted for `shards=` only.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from configs.atomic_write import folder_lock
from configs.cli import run
from configs.errors import CommandFailed, UsageError
from configs.schema import DoctorConfig
from pipelines.cgroup import cgroup_limit
from pipelines.worker_processes import MAX_TMPDIR_BYTES

_PROJECT = "denseav-trainer"
_MODULES = {"decord2": "decord", "ffmpeg-python": "ffmpeg", "pillow": "PIL"}  # where it is not the distribution's name
# Codecs, and the decoders any of which is enough; FFmpeg's own av1 needs a GPU.
_DECODERS = {codec: {codec} for codec in ("h264", "hevc", "vp9", "av1", "aac", "opus", "mp3")} | {
    "vp9": {"vp9", "libvpx-vp9"},
    "av1": {"libdav1d", "libaom-av1", "libgav1"},
    "opus": {"opus", "libopus"},
    "mp3": {"mp3float", "mp3"},
}
_LOADER_TIMEOUT_S = 600
_TIMEOUT_S = 60  # a first import on a busy machine takes more than 20 s
_MIN_FREE_BYTES = 2 << 30
_MIN_SHM_BYTES, _NCCL_SHM_BYTES = 1 << 20, 1 << 30
_MIN_OPEN_FILES = 1024
_RATES = 100, 200, 400, 800  # clips/s that a GPU may take
_NODE_GPUS, _NODE_RATE = 8, 400
_WORKER_MARGIN = 1.15  # as in model.training.loader_advice


class Finding(NamedTuple):
    """The result of one check: `state` is ok, missing or optional; `advice` is empty if there is nothing to do."""

    state: str
    name: str
    detail: str
    advice: str = ""


def main(config: DoctorConfig) -> int:
    """Print the result of every check; returns 1 if something that building needs is missing."""
    findings = list(_check())
    _print(findings)
    if config.shards:
        _print(_loader(config.shards))
    missing = [finding.name for finding in findings if finding.state == "missing"]
    if _version("accelerate"):
        print("\nrun `accelerate env` for the versions of torch and CUDA and for the GPUs")
    install = f"pip install {_PROJECT} installs the packages"
    print(f"\n{len(missing)} missing: {', '.join(missing)}; {install}" if missing else "\nready to build shards")
    return 1 if missing else 0


def _print(findings: Iterable[Finding]) -> None:
    for state, name, detail, advice in findings:
        print(f"{state:<10}{name:<20}{detail}" + (f"; {advice}" if advice else ""))


def _check() -> Iterator[Finding]:
    version = f"{sys.version.split()[0]} ({sys.executable})"
    if sys.version_info < (3, 11):  # noqa: UP036 # doctor also runs from a checkout, where pip has not checked this
        yield Finding("missing", "Python", version, "use Python 3.11 or newer")
        return
    yield Finding("ok", "Python", version)
    requirements = _requirements()
    with ThreadPoolExecutor() as pool:
        pyav = pool.submit(_python, "import av; print(*av.codecs_available)")
        yield from pool.map(_package, requirements.pop(""))
        yield _decoders("PyAV decoders", pyav.result().stdout.split(), "missing", "pip install av")
    yield from _ffmpeg()
    yield _espeak()
    for extra, names in requirements.items():
        if absent := [name for name in names if not _version(name)]:
            install = f"pip install '{_PROJECT}[{extra}]'"
            yield Finding("optional", f"extra {extra}", f"not installed: {', '.join(absent)}", install)
        else:
            yield Finding("ok", f"extra {extra}", f"{len(names)} packages")
    yield from _machine()


def _requirements() -> dict[str, list[str]]:
    """Names of the distributions that each extra needs ("": the base package), from pyproject.toml or the metadata."""
    import tomllib

    pyproject = Path(__file__).resolve().parents[1] / "pyproject.toml"
    requirements: defaultdict[str, list[str]] = defaultdict(list)
    if pyproject.is_file():
        project = tomllib.loads(pyproject.read_text())["project"]
        requirements |= {"": project["dependencies"], **project["optional-dependencies"]}
    else:
        for line in (importlib.metadata.requires(_PROJECT) or []) if _version(_PROJECT) else [_PROJECT]:
            requirements["".join(re.findall(r"extra == ['\"]([\w-]+)", line))].append(line)
    return {extra: [re.split(r"[^\w.-]", line)[0] for line in lines] for extra, lines in requirements.items()}


def _version(distribution: str) -> str:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(distribution)
    return ""


def _run(*command: str, timeout_s: float = _TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout_s)
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error) if isinstance(error, OSError) else f"no answer in {timeout_s:g} s"
        return subprocess.CompletedProcess(command, 1, "", reason)


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return _run(sys.executable, "-c", code)


def _package(name: str) -> Finding:
    """Whether a required package imports; without torch, which webdataset would import and which takes seconds."""
    module = _MODULES.get(name, name.replace("-", "_"))
    done, version = _python(f"import sys; sys.modules['torch'] = None; import {module}"), _version(name)
    if done.returncode == 0:
        return Finding("ok", name, version or "unknown version")
    if not version:
        return Finding("missing", name, "not installed", f"pip install {name}")
    reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:200]
    return Finding("missing", name, f"{version} fails to import: {reason}", f"pip install --force-reinstall {name}")


def _decoders(name: str, available: Collection[str], state: str, advice: str) -> Finding:
    if absent := [codec for codec, names in _DECODERS.items() if names.isdisjoint(available)]:
        return Finding(state, name, f"not found: {', '.join(absent)}", advice)
    return Finding("ok", name, ", ".join(_DECODERS))


def _ffmpeg() -> Iterator[Finding]:
    """The fallback decoder: the ffmpeg on PATH, or the one in the imageio-ffmpeg wheel."""
    program, origin = shutil.which("ffmpeg"), "on PATH"
    if not program:
        done = _python("import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())")
        program, origin = done.stdout.strip(), "in the imageio-ffmpeg wheel"
    if not program:
        yield Finding("missing", "ffmpeg program", "not found on PATH", "pip install imageio-ffmpeg")
        return
    yield Finding("ok", "ffmpeg program", f"{program} ({origin})")
    names = re.findall(r"^ \S{6} (\S+)", _run(program, "-decoders").stdout, re.MULTILINE)
    yield _decoders("ffmpeg decoders", names, "optional", "install another ffmpeg")


def _espeak() -> Finding:
    """The data files of the speech synthesizer, which only the toy world needs."""
    done = _python("import espeakng_loader, os; print(p := espeakng_loader.get_data_path()); os.stat(p + '/phontab')")
    if done.returncode:
        return Finding("optional", "espeak-ng data", "not found", "pip install --force-reinstall espeakng-loader")
    return Finding("ok", "espeak-ng data", done.stdout.strip())


def _machine() -> Iterator[Finding]:
    """Cores, memory, open files and disk space."""
    usable, limit = len(os.sched_getaffinity(0)), cgroup_limit("cpu")
    detail = f"{usable} of {os.cpu_count()}" + (f", cgroup limit {limit:g}" if limit else "")
    is_limited = limit and limit < usable - 0.5
    yield Finding("ok", "cores", detail, f"build with processes={max(1, round(limit))}" if is_limited else "")
    size_bytes, limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), cgroup_limit("memory")
    yield Finding(
        "ok", "memory", f"{size_bytes / 1e9:.1f} GB" + (f", cgroup limit {limit / 1e9:.1f} GB" if limit else "")
    )
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    is_enough = soft == resource.RLIM_INFINITY or soft >= _MIN_OPEN_FILES
    state, advice = ("ok", "") if is_enough else ("missing", f"ulimit -n {_MIN_OPEN_FILES}")
    yield Finding(state, "open files", "no limit" if soft == resource.RLIM_INFINITY else f"at most {soft}", advice)
    yield _disk("working folder", Path.cwd(), _MIN_FREE_BYTES, "missing", "use another folder")
    folder = Path(os.environ.get("TMPDIR") or tempfile.gettempdir())
    yield _disk("TMPDIR", folder, _MIN_FREE_BYTES, "missing", "set TMPDIR to another folder")
    if (size_bytes := len(os.fsencode(folder))) > MAX_TMPDIR_BYTES:
        detail = f"its path of {size_bytes} bytes is too long for the sockets of worker processes"
        yield Finding("missing", "TMPDIR length", detail, f"set TMPDIR to a folder with at most {MAX_TMPDIR_BYTES}")
    yield _locks(Path.cwd())
    yield _shared_memory(Path("/dev/shm"))


def _shared_memory(folder: Path) -> Finding:
    """Loader workers keep semaphores in it, but not their batches; NCCL sends between the GPUs of a machine in it."""
    advice = "docker run --ipc=host or --shm-size=1g"
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        return Finding("optional", str(folder), "not a writable folder: loader workers do not start", advice)
    usage = shutil.disk_usage(folder)
    detail = f"{usage.free / 1e6:.0f} MB free of {usage.total / 1e6:.0f}"
    if usage.free < _MIN_SHM_BYTES:
        return Finding("optional", str(folder), f"{detail}: loader workers do not start", advice)
    if usage.free < _NCCL_SHM_BYTES:
        return Finding("optional", str(folder), f"{detail}: enough on one GPU, too little for NCCL on several", advice)
    return Finding("ok", str(folder), detail)


def _loader(shards: str) -> Iterator[Finding]:
    """Speed of one loader worker, and the workers and cores that follow from it.

    Raises:
        UsageError: no readable data set.
        CommandFailed: the measurement failed or took too long.
    """
    done = _run(sys.executable, "-m", "pipelines.stream.worker_rate", shards, timeout_s=_LOADER_TIMEOUT_S)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1].removeprefix("error: ")
        failure = UsageError if done.returncode == 2 else CommandFailed
        raise failure(f"shards={shards}: no loader worker measured: {reason.removeprefix(f'{shards}: ')}")
    worker_rate = json.loads(done.stdout)["clips_per_s"]
    workers = {rate: math.ceil(_WORKER_MARGIN * rate / worker_rate) for rate in _RATES}
    listed = ", ".join(f"{count} for {rate} clips/s" for rate, count in workers.items())
    yield Finding("ok", "loader worker", f"{worker_rate:.0f} clips/s of {shards}; workers a GPU: {listed}")
    cores = _NODE_GPUS * (workers[_NODE_RATE] + 1)
    yield Finding(
        "ok",
        f"node of {_NODE_GPUS} GPUs",
        f"{_NODE_RATE} clips/s a GPU: stream.num_workers={workers[_NODE_RATE]}, {cores} cores with the training "
        f"processes; this machine has {len(os.sched_getaffinity(0))}",
    )


def _locks(folder: Path) -> Finding:
    """Whether commands that write the same folder exclude each other, and a shard cache may lie on this file system."""
    try:
        with folder_lock(folder, required=True):
            return Finding("ok", "file locks", f"in {folder}")
    except UsageError:
        return Finding("ok", "file locks", f"in {folder}, which another command is writing")
    except OSError as error:
        advice = "write a folder by one command at a time, and set stream.cache_dir to a local disk"
        return Finding("optional", "file locks", f"{error.strerror} in {folder}", advice)


def _disk(name: str, folder: Path, min_bytes: int, state: str, advice: str) -> Finding:
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        return Finding(state, name, f"{folder} is not a writable folder", advice)
    free_bytes = shutil.disk_usage(folder).free
    detail = f"{free_bytes / 1e9:.1f} GB free in {folder}"
    if free_bytes < min_bytes:
        return Finding(state, name, f"{detail}, less than {min_bytes / 1e9:.1f} GB", advice)
    return Finding("ok", name, detail)


if __name__ == "__main__":
    try:
        code = run(DoctorConfig, __doc__, main)
    except ModuleNotFoundError as error:  # parsing the settings needs omegaconf, which may be what is missing
        if error.name != "omegaconf":
            raise
        code = main(DoctorConfig())
    sys.exit(code)
