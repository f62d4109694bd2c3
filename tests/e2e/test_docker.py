"""docker/: linters, the replayed pipeline image, and SLURM and Kubernetes jobs that build shards, without a cluster."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dockerfile import Container, parse, replay
from tiny_builds import OURS, ROOT, SHARDS, contents

BIN = Path(sys.executable).parent
DOCKER = ROOT / "docker"


# ---------------------------------------------------------------------------------------------- image


@pytest.mark.parametrize(
    "command",
    [
        ["hadolint", "--failure-threshold", "info", "docker/pipeline.Dockerfile"],
        ["shellcheck", "docker/slurm_build.sh"],
    ],
)
def test_hadolint_and_shellcheck_report_nothing(command):
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_installs_locked_packages_then_the_wheel_and_runs_without_root():
    wheel, final = parse(DOCKER / "pipeline.Dockerfile")
    assert wheel.base == final.base and re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", final.base)
    assert final.all("COPY") == ["requirements-build.lock /tmp/", "--from=wheel /wheels/*.whl /tmp/"]
    locked, ours = final.all("RUN")
    assert "--require-hashes -r /tmp/requirements-build.lock" in locked and "--only-binary=:all:" in locked
    assert "--no-deps /tmp/*.whl" in ours
    assert final.all("USER")[0].isdecimal() and final.all("ENTRYPOINT") == ['["python", "-m"]']


def test_the_replayed_image_runs_the_installed_package_and_builds_the_same_shards(media, built_files, tmp_path):
    """The COPY and RUN steps in an empty root, with the packages of this environment in place of the locked ones."""
    image = replay(DOCKER / "pipeline.Dockerfile", tmp_path / "image", shared_packages=True)
    assert image.cwd == image.root / "app" and not list(image.cwd.iterdir())
    usage = image.run(*image.cmd)
    assert usage.returncode == 0 and "keys" in usage.stdout, usage.stderr
    code = "import configs, pipelines; print(configs.__file__, pipelines.__file__)"
    where = image.execute([image.python, "-c", code])
    assert where.stdout and all(path.startswith(f"{image.root}/opt/venv/lib/") for path in where.stdout.split()), where
    _build_in(image, media, tmp_path / "out")
    assert contents(tmp_path / "out") == built_files
    page = image.run("pipelines.inspect", f"{tmp_path}/out", f"html={tmp_path}/page.html")
    assert page.returncode == 0 and (tmp_path / "page.html").stat().st_size > 10_000, page.stderr


def test_the_lock_has_one_version_of_each_package_and_no_torch():
    names = re.findall(r"^([a-z][\w.-]*)==", (ROOT / "requirements-build.lock").read_text(), flags=re.MULTILINE)
    assert len(names) == len(set(names)) and {"av", "numpy", "s3fs"} <= set(names)
    assert not [name for name in names if name.startswith(("torch", "nvidia", "timm", "ray", "accelerate"))]


@pytest.mark.slow
def test_the_locked_packages_and_the_wheel_alone_build_the_same_shards(media, built_files, tmp_path):
    image = replay(DOCKER / "pipeline.Dockerfile", tmp_path / "image", shared_packages=False)
    _build_in(image, media, tmp_path / "out")
    assert contents(tmp_path / "out") == built_files
    assert image.execute([image.python, "-c", "import torch"]).returncode == 1
    doctor = image.run("pipelines.doctor", timeout=200)
    assert doctor.returncode == 0 and "ok        extra cloud" in doctor.stdout, doctor.stdout


def _build_in(image: Container, media: Path, out: Path) -> None:
    # The working folder has no configs/: the file comes from the installed package.
    build_command = ["pipelines.build", "config=configs/build/folder.yaml", f"source.root={media}", f"out={out}", *OURS]
    for arguments in (build_command, ["pipelines.verify", str(out)]):
        done = image.run(*arguments)
        assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------------------------------------- SLURM

SBATCH = """#!/usr/bin/env bash
# Runs the tasks of an array as SLURM does: a copy of the script, in the folder of the submission, with the variables
# of an array. Prints the job's number.
set -euo pipefail
count=0
[ -f "$SPOOL/jobs" ] && count=$(wc -l <"$SPOOL/jobs")
echo "$*" >>"$SPOOL/jobs"
options=()
while [[ "$1" == --* ]]; do options+=("$1"); shift; done
script=$1; shift
cp "$script" "$SPOOL/script$count"
cores=1
first=0 last=0 array=
for option in "${options[@]}"; do
    case $option in
    --array=*) array=${option#--array=}; first=${array%-*} last=${array#*-} ;;
    --cpus-per-task=*) cores=${option#--cpus-per-task=} ;;
    esac
done
for task in $(seq "$first" "$last"); do
    export SLURM_CPUS_PER_TASK=$cores
    if [ -n "$array" ]; then export SLURM_ARRAY_TASK_ID=$task SLURM_ARRAY_TASK_COUNT=$((last - first + 1)); fi
    bash "$SPOOL/script$count" "$@" >>"$SPOOL/log$count" 2>&1 || echo "failed: $?" >>"$SPOOL/log$count"
done
echo "$((1000 + count));cluster"
"""
SRUN = """#!/usr/bin/env bash
while [[ "$1" == --* ]]; do shift; done
exec "$@"
"""


@pytest.fixture
def slurm(tmp_path):
    """A spool folder, and an environment with stand-ins for sbatch and srun that run jobs at once."""
    for name, text in (("sbatch", SBATCH), ("srun", SRUN)):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
    (tmp_path / "spool").mkdir()
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    return tmp_path / "spool", {**os.environ, "PATH": path, "SPOOL": str(tmp_path / "spool"), "PYTHON": sys.executable}


def _submit(slices, media, out, environment) -> subprocess.CompletedProcess:
    command = ["bash", "docker/slurm_build.sh", slices, f"source.root={media}", f"out={out}", *OURS]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)


def test_a_job_array_and_its_dependent_job_build_the_same_shards(media, built_files, slurm, tmp_path):
    spool, environment = slurm
    out = tmp_path / "out"
    done = _submit("3", media, out, environment | {"CPUS": "2"})
    assert done.returncode == 0 and done.stdout == "1001;cluster\n", done.stderr
    array, last = (spool / "jobs").read_text().splitlines()
    assert array.startswith("--parsable --array=0-2 --cpus-per-task=2 docker/slurm_build.sh slice source.root=")
    assert last.startswith(
        "--parsable --dependency=afterany:1000 --cpus-per-task=1 docker/slurm_build.sh finish source.root="
    )
    assert len(re.findall(rf"slice=\d/3 is complete, \d+ of {SHARDS} shards", (spool / "log0").read_text())) == 3
    assert f"{out} is complete" in (spool / "log1").read_text()
    assert contents(out) == built_files


def test_a_failed_slice_is_reported_and_the_same_command_resumes(media, built_files, slurm, tmp_path):
    spool, environment = slurm
    out = tmp_path / "out"
    broken = tmp_path / "bin/srun"
    broken.write_text(SRUN.replace("exec", '[ "${SLURM_ARRAY_TASK_ID:-}" = 1 ] && kill -9 $$\nexec'))  # a node fails
    _submit("3", media, out, environment)
    assert " --cpus-per-task=8 " in (spool / "jobs").read_text().splitlines()[0]  # the default
    assert "failed: 137" in (spool / "log0").read_text()
    assert re.search(
        rf"error: .* 3 of {SHARDS} shards are missing \(train-000001, train-000004, train-000007",
        (spool / "log1").read_text(),
    )
    broken.write_text(SRUN)
    written = {path: path.stat().st_mtime_ns for path in out.glob("train-*.json")}
    assert _submit("3", media, out, environment).returncode == 0
    assert contents(out) == built_files
    assert len(written) == 7 and all(path.stat().st_mtime_ns == time_ns for path, time_ns in written.items())


@pytest.mark.parametrize("slices", ["", "0", "config=a.yaml", "-3", "4x"])
def test_an_invalid_number_of_slices_submits_nothing(media, slurm, tmp_path, slices):
    spool, environment = slurm
    done = _submit(slices, media, tmp_path / "out", environment)
    assert (
        done.returncode == 2
        and len(done.stderr.splitlines()) == 1
        and "usage: bash docker/slurm_build.sh SLICES" in done.stderr
    )
    assert not list(spool.iterdir())


# ---------------------------------------------------------------------------------------------- Kubernetes


@pytest.fixture(scope="module")
def jobs():
    return list(yaml.safe_load_all((DOCKER / "k8s_build.yaml").read_text()))


def test_the_jobs_define_a_complete_indexed_build(jobs):
    slices, finish = (job["spec"] for job in jobs)
    assert [(job["apiVersion"], job["kind"], job["metadata"]["labels"]["part"]) for job in jobs] == [
        ("batch/v1", "Job", "slices"),
        ("batch/v1", "Job", "finish"),
    ]
    assert (slices["completionMode"], slices["parallelism"]) == ("Indexed", slices["completions"]) and slices[
        "backoffLimitPerIndex"
    ] > 0
    (first,), (last,) = (spec["template"]["spec"]["containers"] for spec in (slices, finish))
    assert first["args"][:5] == last["args"][:5] and first["image"] == last["image"], (
        "both must build the same data set"
    )
    assert f"slice=$(JOB_COMPLETION_INDEX)/{slices['completions']}" in first["args"] and "slice=finish" in last["args"]
    assert f"processes={first['resources']['requests']['cpu']}" in first["args"]
    (user,) = parse(DOCKER / "pipeline.Dockerfile")[-1].all("USER")
    for spec in (slices, finish):
        pod = spec["template"]["spec"]
        assert pod["restartPolicy"] == "Never", "required by backoffLimitPerIndex and podFailurePolicy"
        assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == {
            volume["name"] for volume in pod["volumes"]
        }
        assert pod["securityContext"]["runAsUser"] == int(user)


def _run_container(container, media, out, variables) -> subprocess.CompletedProcess:
    """Run the entry point with a container's arguments, but our folders and four pods instead of a hundred."""
    given = [re.sub(r"\$\((\w+)\)", lambda name: variables[name[1]], argument) for argument in container["args"]]
    ours = {
        "config=": "source.kind=folder",
        "source.root=": f"source.root={media}",
        "out=": f"out={out}",
        "processes=": "processes=1",
    }
    arguments = [
        next((new for start, new in ours.items() if argument.startswith(start)), argument).replace("/100", "/4")
        for argument in given
    ]
    return subprocess.run(
        [sys.executable, "-m", *arguments, *OURS], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_the_containers_of_the_jobs_build_the_same_shards(jobs, media, built_files, tmp_path):
    out = tmp_path / "out"
    slices, finish = (job["spec"]["template"]["spec"]["containers"][0] for job in jobs)
    for index in range(4):
        done = _run_container(slices, media, out, {"JOB_COMPLETION_INDEX": str(index)})
        assert done.returncode == 0, done.stderr
    done = _run_container(finish, media, out, {})
    assert done.returncode == 0 and f"{out} is complete" in done.stdout, done.stderr
    assert contents(out) == built_files


def test_every_config_file_named_in_docker_exists():
    for path in DOCKER.iterdir():
        for name in re.findall(r"config=(configs/\S+\.yaml)", path.read_text()):
            assert (ROOT / name).is_file(), f"{path.name} names {name}"
