"""What is missing on this machine to build shards, and how to get it: `python -m pipelines.doctor` prints one line for each thing.

Each line begins with ok, missing (needed: the exit code is 1) or optional (not there, and building does without it). It runs where nothing is
installed yet. Every package is imported in a process of its own, because a wrong build of one may end the process.
Limits: torch and ray are asked for their versions only; whether a remote folder can be reached is not tried.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from configs.cli import run
from configs.schema import DoctorConfig

_INSTALL = "pip install -r requirements-build.lock"
_PACKAGES = {  # distribution -> module, and what cannot be done without it ("": building)
    "av": ("av", ""),
    "ffmpeg-python": ("ffmpeg", ""),
    "numpy": ("numpy", ""),
    "omegaconf": ("omegaconf", ""),
    "pillow": ("PIL", ""),
    "simplejpeg": ("simplejpeg", ""),
    "soundfile": ("soundfile", ""),
    "tqdm": ("tqdm", ""),
    "fsspec": ("fsspec", "folders that are not local"),
    "decord2": ("decord", "decode.decoder=decord"),
    "kaldi-native-fbank": ("kaldi_native_fbank", "log-mels"),
    "webdataset": ("webdataset", "reading shards with stock webdataset"),
    "espeakng-loader": ("espeakng_loader", "the toy world's voices"),
}
_DECODERS = {  # FFmpeg's own av1 needs a graphics card
    "h264": ("h264",),
    "hevc": ("hevc",),
    "vp9": ("vp9", "libvpx-vp9"),
    "av1": ("libdav1d", "libaom-av1", "libgav1"),
    "aac": ("aac",),
    "opus": ("opus", "libopus"),
    "mp3": ("mp3float", "mp3"),
}
_REMOTE = {"s3://": "s3fs", "gs://": "gcsfs", "abfs://": "adlfs"}
_IMPORT_LIMIT_S = 20
_MIN_FREE_BYTES = 2 << 30
_MIN_OPEN_FILES = 1024
_UNLIMITED_BYTES = 1 << 60  # cgroup v1 writes a number near 2 ** 63 where there is no limit


class Finding(NamedTuple):
    """One line: `state` is ok, missing or optional; `advice` is empty where there is nothing to do."""

    state: str
    what: str
    seen: str
    advice: str = ""


def main(_: DoctorConfig) -> int:
    """Print what was found; 1 when something that building needs is missing."""
    trials = {module: _try_import(module) for module, _ in _PACKAGES.values()}  # they run side by side
    decoders = _start(
        "import av\nfor name in sys.argv[1:]:\n try: print(av.codec.Codec(name, 'r').name)\n except Exception: pass",
        *sum(_DECODERS.values(), ()),
    )
    graphics = _graphics_query()
    findings = [_python(), *_packages(trials), *_decoders(decoders), _ffmpeg(), *_remote(), _ray()]
    findings += [
        _cores(),
        _memory(),
        _open_files(),
        _disk("working folder", Path.cwd()),
        _temporary(),
        _torch(),
        *_graphics(graphics),
    ]
    for finding in findings:
        print(
            f"{finding.state:<10}{finding.what:<20}{finding.seen}" + (f"; {finding.advice}" if finding.advice else "")
        )
    missing = [finding.what for finding in findings if finding.state == "missing"]
    if missing:
        print(
            f"\n{len(missing)} missing: {', '.join(missing)}; {_INSTALL} brings all packages of this list that are needed"
        )
    else:
        print("\nnothing that building shards needs is missing")
    return 1 if missing else 0


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    is_new = sys.version_info >= (3, 11)
    return Finding(
        "ok" if is_new else "missing",
        "Python",
        f"{version} ({sys.executable})",
        "" if is_new else "3.11 or newer is needed",
    )


def _start(code: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", f"import sys\n{code}", *arguments]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    )


def _try_import(module: str) -> subprocess.Popen[str]:
    return _start(
        f"sys.modules['torch'] = None\nimport {module}"
    )  # webdataset takes torch where it can, and that takes seconds


def _end(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What a process printed, and why it failed ("": it did not)."""
    try:
        out, err = process.communicate(timeout=_IMPORT_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return "", f"no answer in {_IMPORT_LIMIT_S} s"
    return out, "" if process.returncode == 0 else (err.strip().splitlines() or [f"ended with {process.returncode}"])[
        -1
    ][:200]


def _packages(trials: dict[str, subprocess.Popen[str]]) -> Iterator[Finding]:
    for name, (module, use) in _PACKAGES.items():
        _, failure = _end(trials[module])
        version = _version(name)
        without = f" (for {use} only)" if use else ""
        if not failure:
            yield Finding("ok", name, version or "of unknown version")
        elif version:
            yield Finding(
                "optional" if use else "missing",
                name,
                f"{version} does not import: {failure}{without}",
                f"pip install --force-reinstall {name}",
            )
        else:
            yield Finding("optional" if use else "missing", name, f"not installed{without}", f"pip install {name}")


def _version(distribution: str) -> str:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(distribution)
    return ""


def _decoders(process: subprocess.Popen[str]) -> Iterator[Finding]:
    found, failure = _end(process)
    for codec, names in _DECODERS.items():
        there = [name for name in names if name in found.split()]
        if there:
            yield Finding("ok", f"decoder {codec}", f"{there[0]} in PyAV")
        else:
            yield Finding(
                "missing",
                f"decoder {codec}",
                "PyAV does not import" if failure else "not in this PyAV",
                "pip install av (the wheel has it)",
            )


def _ffmpeg() -> Finding:
    if program := shutil.which("ffmpeg"):
        return Finding("ok", "ffmpeg program", f"{program} (on PATH)")
    with contextlib.suppress(ImportError, RuntimeError):
        import imageio_ffmpeg

        return Finding("ok", "ffmpeg program", f"{imageio_ffmpeg.get_ffmpeg_exe()} (in the imageio-ffmpeg wheel)")
    return Finding("missing", "ffmpeg program", "neither on PATH nor in a wheel", "pip install imageio-ffmpeg")


def _remote() -> Iterator[Finding]:
    for protocol, driver in _REMOTE.items():
        is_there = importlib.util.find_spec(driver) is not None
        yield Finding(
            "ok" if is_there else "optional",
            f"{protocol} folders",
            f"{driver} {_version(driver)}" if is_there else f"no {driver}",
            "" if is_there else f"pip install {driver}",
        )


def _ray() -> Finding:
    version = _version("ray")
    return Finding(
        "ok" if version else "optional",
        "executor=ray",
        version or "no ray",
        "" if version else "pip install ray, or use local or slice",
    )


def _cores() -> Finding:
    usable, total = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    limit = cgroup_limit("cpu")
    seen = f"{usable} of {total}" + (f", and a cgroup limit of {limit:g}" if limit else "")
    return Finding(
        "ok", "cores", seen, f"build with processes={max(1, round(limit))}" if limit and limit < usable - 0.5 else ""
    )


def _memory() -> Finding:
    size_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit_bytes = cgroup_limit("memory")
    seen = f"{size_bytes / 1e9:.1f} GB" + (f", and a cgroup limit of {limit_bytes / 1e9:.1f} GB" if limit_bytes else "")
    return Finding("ok", "memory", seen)


def cgroup_limit(kind: str, groups: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> float:
    """The tightest limit on this process in its group and those above it, version 1 or 2.

    Args:
        kind: cpu (in cores) or memory (in bytes).
        groups, mount: where the kernel tells.

    Returns:
        0 where there is none.
    """
    limits = []
    for line in groups.read_text().splitlines() if groups.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and kind not in controllers.split(","):
            continue
        top = (
            mount / controllers
            if controllers and (mount / controllers).is_dir()
            else mount / kind
            if controllers
            else mount
        )
        parts = [part for part in path.split("/") if part not in ("", "..")]
        limits += [_limit_of(top.joinpath(*parts[:depth]), kind) for depth in range(len(parts) + 1)]
    return min((limit for limit in limits if limit > 0), default=0.0)


def _limit_of(group: Path, kind: str) -> float:
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        if kind == "memory":
            limit_bytes = float(
                (group / ("memory.max" if (group / "memory.max").is_file() else "memory.limit_in_bytes")).read_text()
            )
            return limit_bytes if limit_bytes < _UNLIMITED_BYTES else 0.0
        if (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return float(quota) / float(period)
    return 0.0


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    is_enough = soft == resource.RLIM_INFINITY or soft >= _MIN_OPEN_FILES
    seen = (
        "no limit"
        if soft == resource.RLIM_INFINITY
        else f"{soft} at most" + (f" (ulimit -n can raise it to {hard})" if hard > soft else "")
    )
    return Finding(
        "ok" if is_enough else "missing", "open files", seen, "" if is_enough else f"ulimit -n {_MIN_OPEN_FILES}"
    )


def _disk(what: str, folder: Path) -> Finding:
    free_bytes = shutil.disk_usage(folder).free
    seen = f"{free_bytes / 1e9:.1f} GB free in {folder}"
    if not os.access(folder, os.W_OK):
        return Finding("missing", what, f"{folder} cannot be written", "go to another folder")
    return (
        Finding("ok", what, seen)
        if free_bytes >= _MIN_FREE_BYTES
        else Finding("missing", what, seen, "make room or take another folder")
    )


def _temporary() -> Finding:
    wanted = os.environ.get("TMPDIR", "")
    if wanted and not (Path(wanted).is_dir() and os.access(wanted, os.W_OK)):
        return Finding(
            "missing", "TMPDIR", f"{wanted} is no folder that can be written", "make it, or set TMPDIR to another"
        )
    return _disk("TMPDIR", Path(wanted or tempfile.gettempdir()))


def _torch() -> Finding:
    version = _version("torch")
    return Finding("ok" if version else "optional", "torch", version or "not installed (building does without it)")


def _graphics_query() -> subprocess.Popen[str] | None:
    program = shutil.which("nvidia-smi")
    command = [program or "", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    return (
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if program
        else None
    )


def _graphics(query: subprocess.Popen[str] | None) -> Iterator[Finding]:
    if query is None:
        yield Finding("optional", "CUDA devices", "no nvidia-smi on PATH (building does without it)")
        return
    devices, failure = _end(query)
    if failure or not devices.strip():
        yield Finding("optional", "CUDA devices", f"nvidia-smi: {failure or 'none'} (building does without it)")
    yield from (Finding("ok", "CUDA device", device.strip()) for device in ([] if failure else devices.splitlines()))


if __name__ == "__main__":
    try:
        code = run(DoctorConfig, __doc__, main)
    except ModuleNotFoundError as error:  # settings need omegaconf, and that may be what is missing
        if error.name != "omegaconf":
            raise
        code = main(DoctorConfig())
    sys.exit(code)
