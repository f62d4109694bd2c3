"""pipelines.doctor: what it reports on a complete machine, on a bare Python, and for each kind of problem."""

import os
import re
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest
from paths import ROOT
from shared_memory import with_small_shm
from tiny_shards import write_data_set


def doctor(python: str = sys.executable, before: str = "", **environment: str) -> tuple[int, dict[str, str], str]:
    """Exit code, lines by the name of the check, and everything that was printed."""
    return result(["bash", "-c", f'{before} exec "$0" -m pipelines.doctor', python], **environment)


def result(command: list[str], timeout_s: float = 60, **environment: str) -> tuple[int, dict[str, str], str]:
    """What `doctor` returns, for a command line that ends in it."""
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, env={**os.environ, **environment}
    )
    assert "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stdout.splitlines() if re.match("ok |missing |optional ", line)]
    return done.returncode, {line[10:30].strip(): line for line in lines}, done.stdout


def test_a_complete_machine_passes_every_check_with_exit_code_0():
    began_s = time.perf_counter()
    code, lines, out = doctor()
    assert time.perf_counter() - began_s < 10  # under 3 s on an idle machine
    assert code == 0 and out.endswith("\nready to build shards\n")
    assert "run `accelerate env` for the versions of torch and CUDA" in out
    packages = [
        "av",
        "decord2",
        "simplejpeg",
        "soundfile",
        "kaldi-native-fbank",
        "ffmpeg-python",
        "webdataset",
        "fsspec",
    ]
    for name in (*packages, "Python", "ffmpeg program", "espeak-ng data"):
        assert lines[name].startswith("ok "), name
    for name in ("PyAV decoders", "ffmpeg decoders"):
        assert lines[name].startswith("ok ") and lines[name].endswith("h264, hevc, vp9, av1, aac, opus, mp3")
    for name in ("cores", "memory", "open files", "working folder", "TMPDIR"):
        assert lines[name].startswith("ok ") and re.search(r"\d", lines[name]), name
    assert {"extra train", "extra farm", "extra cloud", "/dev/shm"} <= lines.keys()


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A Python in which nothing is installed."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    venv.create(folder, symlinks=True)
    return folder


def test_a_bare_python_lists_missing_packages_and_extras_with_pip_commands(bare):
    code, lines, out = doctor(str(bare / "bin/python"))
    assert code == 1
    assert lines["av"] == "missing   av                  not installed; pip install av"
    for name in ("omegaconf", "webdataset", "PyAV decoders"):
        assert lines[name].startswith("missing "), name
    assert lines["espeak-ng data"].startswith("optional ")
    assert re.fullmatch(
        r"optional  extra train         not installed: .*\btorch\b.*; pip install 'denseav-trainer\[train\]'",
        lines["extra train"],
    )
    assert lines["extra cloud"].endswith("not installed: s3fs; pip install 'denseav-trainer[cloud]'")
    assert "accelerate env" not in out
    assert out.splitlines()[-1].endswith("; pip install denseav-trainer installs the packages")


def test_an_installed_copy_reads_its_requirements_from_the_metadata(bare, tmp_path):
    for package in ("configs", "pipelines"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))

    def lines():
        command = [bare / "bin/python", "-m", "pipelines.doctor"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60).stdout

    assert "missing   denseav-trainer     not installed; pip install denseav-trainer\n" in lines()
    metadata = ["Metadata-Version: 2.4", "Name: denseav-trainer", "Version: 1.0"]
    metadata += ["Requires-Dist: av==18.1.0", "Requires-Dist: moto[s3]; extra == 'dev'"]
    (tmp_path / "denseav_trainer-1.0.dist-info").mkdir()
    (tmp_path / "denseav_trainer-1.0.dist-info/METADATA").write_text("\n".join(metadata) + "\n")
    assert "missing   av                  not installed; pip install av\n" in lines()
    assert "optional  extra dev           not installed: moto; pip install 'denseav-trainer[dev]'\n" in lines()


def test_a_package_that_crashes_on_import_is_reported(bare):
    folder = next(bare.glob("lib/python*/site-packages"))
    (folder / "av.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    (folder / "soundfile.py").write_text("raise OSError('no library\\nsndfile library not found')")
    for name in ("av", "soundfile"):
        (folder / f"{name}-1.0.dist-info").mkdir()
        (folder / f"{name}-1.0.dist-info/METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    code, lines, _ = doctor(str(bare / "bin/python"))
    assert code == 1
    assert "1.0 fails to import: exit code -11; pip install --force-reinstall av" in lines["av"]
    assert "1.0 fails to import: sndfile library not found" in lines["soundfile"]


def test_an_ffmpeg_on_path_is_preferred_and_its_missing_decoders_are_listed(tmp_path):
    names = ("h264", "hevc", "vp9", "aac", "opus", "mp3float")
    listing = "".join(f"echo ' V....D {name} description'\n" for name in names)
    (tmp_path / "ffmpeg").write_text(f"#!/bin/sh\n{listing}")
    (tmp_path / "ffmpeg").chmod(0o755)
    code, lines, _ = doctor(PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert code == 0
    assert lines["ffmpeg program"] == f"ok        ffmpeg program      {tmp_path}/ffmpeg (on PATH)"
    assert lines["ffmpeg decoders"] == "optional  ffmpeg decoders     not found: av1; install another ffmpeg"


def test_a_low_open_files_limit_and_an_unusable_tmpdir_are_reported(tmp_path):
    code, lines, _ = doctor(before="ulimit -n 200;", TMPDIR=str(tmp_path / "none"))
    assert code == 1
    assert lines["open files"] == "missing   open files          at most 200; ulimit -n 1024"
    assert lines["TMPDIR"].startswith(f"missing   TMPDIR              {tmp_path}/none is not a writable folder")


def test_a_tmpdir_too_long_for_sockets_is_reported_here_and_in_one_line_by_a_build(tmp_path):
    folder = tmp_path / ("x" * (76 - len(str(tmp_path)) - 1))
    folder.mkdir()
    code, lines, _ = doctor(TMPDIR=str(folder))
    assert code == 1
    assert lines["TMPDIR length"].startswith("missing   TMPDIR length       its path of 76 bytes is too long for the")
    build = [sys.executable, "-m", "pipelines.build", f"source.root={tmp_path}", f"out={tmp_path}/out"]
    (tmp_path / "a.mp4").touch()
    done = subprocess.run(build, cwd=ROOT, env=os.environ | {"TMPDIR": str(folder)}, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith(f"error: TMPDIR={folder}: its path of 76")
    shorter = os.environ | {"TMPDIR": str(folder.rename(folder.with_name(folder.name[1:])))}
    done = subprocess.run(build, cwd=ROOT, env=shorter, capture_output=True, text=True)
    assert done.returncode == 1 and "no clip could be used" in done.stderr  # a.mp4 is empty


@pytest.mark.parametrize(
    ("size", "detail"),
    [
        ("64m", "67 MB free of 67: enough on one GPU, too little for NCCL on several"),
        ("256k", "0 MB free of 0: loader workers do not start"),
    ],
)
def test_a_small_dev_shm_is_reported_with_the_option_of_docker(size, detail):
    code, lines, _ = result(with_small_shm([sys.executable, "-m", "pipelines.doctor"], size))
    assert code == 0
    assert lines["/dev/shm"] == f"optional  /dev/shm            {detail}; docker run --ipc=host or --shm-size=1g"


def test_a_loader_worker_is_measured_on_request(tmp_path):
    folder = write_data_set(tmp_path / "shards", [40, 40])
    code, lines, _ = result([sys.executable, "-m", "pipelines.doctor", f"shards={folder}"], timeout_s=200)
    assert code == 0
    found = re.fullmatch(
        rf"ok        loader worker       (\d+) clips/s of {folder}; workers a GPU: (\d+) for 100 clips/s, "
        r"\d+ for 200 clips/s, (\d+) for 400 clips/s, \d+ for 800 clips/s",
        lines["loader worker"],
    )
    rate, few, many = map(int, found.groups())
    for workers, clips_per_s in ((few, 100), (many, 400)):  # 15 % more than the GPU takes; the rate is rounded
        assert 1.15 * clips_per_s / (rate + 0.5) <= workers < 1.15 * clips_per_s / (rate - 0.5) + 1
    assert f"400 clips/s a GPU: stream.num_workers={many}, {8 * many + 8} cores" in lines["node of 8 GPUs"]


def test_shards_that_cannot_be_measured_are_one_line():
    command = [sys.executable, "-m", "pipelines.doctor", "shards=nowhere"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2 and "cores" in done.stdout
    assert done.stderr.startswith("error: shards=nowhere: no loader worker measured: no such folder of shards")


def test_torch_is_not_imported():
    code = "import sys; from pipelines.doctor import *; main(DoctorConfig()); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "False"


def test_an_unknown_argument_gives_exit_code_2():
    assert (
        subprocess.run([sys.executable, "-m", "pipelines.doctor", "x"], cwd=ROOT, capture_output=True).returncode == 2
    )
