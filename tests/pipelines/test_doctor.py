"""Doctor says what is there, what is missing and how to get it, on machines that have everything and on those that have nothing yet."""

import os
import re
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest
from paths import ROOT

from pipelines.doctor import cgroup_limit


def doctor(python: str = sys.executable, before: str = "", **environment: str) -> tuple[int, dict[str, str], str]:
    """Exit code, line by thing, and everything that was printed."""
    command = ["bash", "-c", f'{before} exec "$0" -m pipelines.doctor', python]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )
    assert "Traceback" not in done.stderr, done.stderr
    lines = done.stdout.splitlines()
    return (
        done.returncode,
        {line[10:30].strip(): line for line in lines if re.match("ok |missing |optional ", line)},
        done.stdout,
    )


def test_a_machine_with_everything_gets_a_line_for_each_thing_and_exit_code_0():
    began_s = time.perf_counter()
    code, lines, out = doctor()
    assert time.perf_counter() - began_s < 10  # under 3 s where nothing else runs
    assert code == 0 and out.endswith("nothing that building shards needs is missing\n")
    for thing in (
        "Python",
        "av",
        "decord2",
        "simplejpeg",
        "soundfile",
        "kaldi-native-fbank",
        "ffmpeg-python",
        "webdataset",
        "fsspec",
        "ffmpeg program",
    ):
        assert lines[thing].startswith("ok "), thing
    for codec in ("h264", "hevc", "vp9", "av1", "aac", "opus", "mp3"):
        assert lines[f"decoder {codec}"].startswith("ok "), codec
    for thing in ("cores", "memory", "open files", "working folder", "TMPDIR"):
        assert lines[thing].startswith("ok ") and re.search(r"\d", lines[thing]), thing
    assert {"s3:// folders", "gs:// folders", "abfs:// folders", "executor=ray", "torch"} <= lines.keys()


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> Path:
    """A Python in which nothing is installed."""
    folder = tmp_path_factory.mktemp("empty") / "venv"
    venv.create(folder, symlinks=True)
    return folder


def test_a_python_without_packages_is_told_what_to_install(empty):
    code, lines, out = doctor(str(empty / "bin/python"))
    assert code == 1
    assert lines["av"] == "missing   av                  not installed; pip install av"
    assert lines["omegaconf"].startswith("missing ") and lines["decoder h264"].startswith("missing ")
    assert lines["webdataset"].startswith("optional ") and lines["torch"].startswith("optional ")
    assert lines["s3:// folders"] == "optional  s3:// folders       no s3fs; pip install s3fs"
    assert "pip install -r requirements-build.lock brings all packages" in out.splitlines()[-1]


def test_a_package_whose_import_ends_the_process_is_told(empty):
    folder = next(empty.glob("lib/python*/site-packages"))
    (folder / "av.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    (folder / "soundfile.py").write_text("raise OSError('no library\\nsndfile library not found')")
    for name in ("av", "soundfile"):
        (folder / f"{name}-1.0.dist-info").mkdir()
        (folder / f"{name}-1.0.dist-info/METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    code, lines, _ = doctor(str(empty / "bin/python"))
    assert code == 1
    assert "1.0 does not import: ended with -11; pip install --force-reinstall av" in lines["av"]
    assert "1.0 does not import: sndfile library not found" in lines["soundfile"]


def test_an_ffmpeg_on_the_path_is_named(tmp_path):
    (tmp_path / "ffmpeg").write_text("#!/bin/sh\n")
    (tmp_path / "ffmpeg").chmod(0o755)
    _, lines, _ = doctor(PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert lines["ffmpeg program"] == f"ok        ffmpeg program      {tmp_path}/ffmpeg (on PATH)"


def test_cuda_devices_are_named_by_nvidia_smi(tmp_path):
    (tmp_path / "nvidia-smi").write_text(
        "#!/bin/sh\necho 'NVIDIA H100, 81559 MiB, 570.1'\necho 'NVIDIA H100, 81559 MiB, 570.1'\n"
    )
    (tmp_path / "nvidia-smi").chmod(0o755)
    _, lines, out = doctor(PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert lines["CUDA device"].startswith("ok ") and out.count("NVIDIA H100, 81559 MiB, 570.1") == 2


def test_a_limit_on_open_files_and_a_lost_folder_for_temporary_files_are_told(tmp_path):
    code, lines, _ = doctor(before="ulimit -n 200;", TMPDIR=str(tmp_path / "none"))
    assert code == 1
    assert lines["open files"] == "missing   open files          200 at most; ulimit -n 1024"
    assert lines["TMPDIR"].startswith(f"missing   TMPDIR              {tmp_path}/none is no folder that can be written")


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
    ids=["version 2", "a group above", "version 1", "no limit", "out of sight"],
)
def test_the_tightest_limit_of_all_groups_counts(tmp_path, groups, files, cores, memory_bytes):
    (tmp_path / "groups").write_text(groups)
    for name, text in files.items():
        (tmp_path / "mount" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mount" / name).write_text(text + "\n")
    assert cgroup_limit("cpu", tmp_path / "groups", tmp_path / "mount") == cores
    assert cgroup_limit("memory", tmp_path / "groups", tmp_path / "mount") == memory_bytes


def test_torch_is_not_imported():
    code = "import sys; from configs.schema import DoctorConfig; from pipelines.doctor import main; main(DoctorConfig()); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "False"


def test_a_wrong_use_is_exit_code_2():
    assert (
        subprocess.run([sys.executable, "-m", "pipelines.doctor", "x"], cwd=ROOT, capture_output=True).returncode == 2
    )
