"""The training half of docker/ without an engine, SLURM or Kubernetes: linted, and run by real processes on two
machines.

Both machines are this one; sbatch, srun and scontrol are stand-ins that do at once what SLURM does later.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from paths import ROOT
from tiny_runs import settings_of_a_run, steps_saved

BIN, DOCKER = Path(sys.executable).parent, ROOT / "docker"
SCRIPTS = ["docker/train_node.sh", "docker/slurm_train.sh"]


@pytest.mark.parametrize(
    "command",
    [["hadolint", "--failure-threshold", "info", "docker/train.Dockerfile"], ["shellcheck", *SCRIPTS]],
    ids=lambda c: c[0],
)
def test_the_linters_have_nothing_to_say(command):
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


# ---------------------------------------------------------------------------------------------- image


def _instructions() -> list[tuple[str, str]]:
    """The lines of the Dockerfile as (instruction, the rest), continued lines joined."""
    text = re.sub(r"^#.*\n", "", (DOCKER / "train.Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(" ", 1)) for line in text.splitlines() if line.strip()]


def test_the_image_has_cuda_the_locked_packages_our_code_and_no_root():
    lines = _instructions()
    base = next(rest for word, rest in lines if word == "ARG")
    assert re.fullmatch(r"BASE=nvidia/cuda:13\.\d+\.\d+-base-ubuntu24\.04", base)
    copies = [rest.split() for word, rest in lines if word == "COPY"]
    copied = {path for paths in copies if not paths[0].startswith("--from") for path in paths[:-1]}
    of_the_wheel = {"pyproject.toml", "README.md", "LICENSE", "configs", "pipelines", "model", "eval", "train.py"}
    assert copied == of_the_wheel | {"requirements.lock", "docker/train_node.sh"}
    assert all((ROOT / path).exists() for path in copied)
    (install,) = (rest for word, rest in lines if word == "RUN" and "requirements.lock" in rest)
    assert (
        "--require-hashes -r /tmp/requirements.lock" in install
        and "--only-binary=:all:" in install
        and " -e " not in install
    )
    order = [rest for _, rest in lines]
    assert order.index(install) < order.index("--from=wheel /wheels/*.whl /tmp/"), (
        "a change of the code must not install the packages again"
    )
    assert dict(lines)["USER"].isdecimal() and dict(lines)["ENTRYPOINT"] == '["python", "-m"]'


def test_the_lock_has_the_cuda_of_the_image_and_the_trackers_but_no_address():
    lock = (ROOT / "requirements.lock").read_text()
    names = set(re.findall(r"^([a-z][\w.-]*)==", lock, flags=re.MULTILINE))
    assert {"torch", "accelerate", "wandb", "tensorboard", "nvidia-nccl-cu13"} <= names and "://" not in lock
    (toolkit,) = re.findall(r"^cuda-toolkit==(\d+\.\d+)", lock, flags=re.MULTILINE)
    assert dict(_instructions())["ARG"].split(":")[1].startswith(toolkit)


@pytest.mark.slow
def test_every_package_of_the_lock_has_a_wheel_for_the_python_of_the_image(tmp_path):
    """Asks the registry, installs nothing."""
    command = [
        BIN / "uv",
        "pip",
        "install",
        "--dry-run",
        "--target",
        tmp_path,
        "--python-version",
        "3.12",
        "--python-platform",
        "x86_64-manylinux_2_39",
    ]
    done = subprocess.run(
        [*command, "--only-binary", ":all:", "--require-hashes", "-r", ROOT / "requirements.lock"],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert (
        f"torch=={re.search(r'^torch==([0-9.]+)', (ROOT / 'requirements.lock').read_text(), re.MULTILINE)[1]}"
        in done.stderr
    )


# ---------------------------------------------------------------------------------------------- two machines


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return settings_of_a_run(tmp_path_factory.mktemp("data"))


@pytest.fixture
def machine(tmp_path):
    """Environment of a machine without GPUs: the same launch on the CPU, with a free port."""
    config = yaml.safe_load((ROOT / "configs/accelerate/multi_node.yaml").read_text()) | {
        "use_cpu": True,
        "mixed_precision": "no",
    }
    (tmp_path / "cpu.yaml").write_text(yaml.safe_dump(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return os.environ | {
        "ACCELERATE_CONFIG": str(tmp_path / "cpu.yaml"),
        "PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",
        "PORT": str(port),
    }


def _arguments(settings, out, *more):
    given = {
        text.partition("=")[0]: text
        for text in (*settings, f"out={out}", "checkpoint.every_steps=1000", "checkpoint.keep_last=3", *more)
    }
    return list(given.values())


def _end(process):
    """Kill it and all that it started, if a test has left it running."""
    found = [process.pid] if process.poll() is None else []
    for pid in found:
        found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    process.wait()


def _wait(condition, what, seconds=200.0):
    limit_s = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < limit_s, what()
        time.sleep(0.05)
    return found


def _steps_told(out):
    path = out / "a/history.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


SRUN = """#!/usr/bin/env bash
# Starts the task on each node at once; SIGUSR1 goes to every process of every task, as SLURM's own does.
while [[ "$1" == --* ]]; do shift; done
tasks=()
for node in $(seq 0 $((SLURM_JOB_NUM_NODES - 1))); do
    SLURM_NODEID=$node setsid "$@" >>"$SPOOL/node$node" 2>&1 &
    tasks+=($!)
done
descendants() {
    for child in $(cat "/proc/$1/task/$1/children" 2>/dev/null); do echo "$child"; descendants "$child"; done
}
hand_on() { for task in "${tasks[@]}"; do kill -USR1 "$task" $(descendants "$task") 2>/dev/null; done; }
trap hand_on USR1
answer=0
for task in "${tasks[@]}"; do
    while true; do
        wait "$task"; code=$?
        kill -0 "$task" 2>/dev/null || break
    done
    [ "$code" -gt "$answer" ] && answer=$code
done
exit $answer
"""
SCONTROL = """#!/usr/bin/env bash
case $1 in
show) for node in $(seq "$SLURM_JOB_NUM_NODES"); do echo localhost; done ;;
requeue) echo "$2" >>"$SPOOL/requeued" ;;
esac
"""


@pytest.fixture
def slurm(tmp_path, machine):
    """Starts the batch script as SLURM would on two nodes, in a session of its own; what it says goes to spool/said."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "spool").mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    shutil.copy(DOCKER / "slurm_train.sh", tmp_path / "spool/script")
    variables = {
        "SLURM_JOB_ID": str(int(machine["PORT"]) - 20000 if int(machine["PORT"]) < 40000 else 7),
        "SLURM_JOB_NUM_NODES": "2",
    }
    variables |= {
        "SLURM_JOB_NODELIST": "localhost,localhost",
        "SLURM_GPUS_ON_NODE": "1",
        "SPOOL": str(tmp_path / "spool"),
    }
    environment = machine | variables | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    started = []

    def start(*arguments):
        with (tmp_path / "spool/said").open("ab") as said:
            command = ["bash", str(tmp_path / "spool/script"), *arguments]
            started.append(
                subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said, start_new_session=True)
            )
        return started[-1]

    yield start
    for process in started:
        _end(process)


def _said(tmp_path):
    return "\n".join(path.read_text() for path in (tmp_path / "spool").iterdir() if path.name != "script")


@pytest.mark.slow
def test_a_slurm_job_trains_on_two_nodes_saves_before_its_end_and_goes_back_into_the_queue(settings, slurm, tmp_path):
    out = tmp_path / "out"
    job = slurm("a", *_arguments(settings, out, "steps=100000"))
    _wait(lambda: _steps_told(out) > 3, lambda: _said(tmp_path))
    job.send_signal(signal.SIGUSR1)  # --signal=B:USR1@300
    assert job.wait(120) == 0, _said(tmp_path)
    assert len((tmp_path / "spool/requeued").read_text().split()) == 1
    assert (out / "a/REQUEUE").read_text().startswith("SIGUSR1 after step ")
    (saved,) = steps_saved(out)
    assert saved == _steps_told(out) > 3
    again = slurm("a", *_arguments(settings, out, f"steps={saved + 2}"))  # what the queue does later
    assert again.wait(200) == 0, _said(tmp_path)
    assert not (out / "a/REQUEUE").exists() and "on 2 processes" in (tmp_path / "spool/node0").read_text()
    assert steps_saved(out)[-1] == saved + 2 and len((tmp_path / "spool/requeued").read_text().split()) == 1


@pytest.mark.slow
def test_a_job_that_was_cancelled_or_misused_stays_out_of_the_queue(settings, slurm, tmp_path):
    out = tmp_path / "out"
    wrong = slurm("a", *_arguments(settings, out, "steps=10", "on=y"))
    assert wrong.wait(200) != 0 and "unknown key 'on'" in _said(tmp_path)
    job = slurm("a", *_arguments(settings, out, "steps=100000"))
    _wait(lambda: _steps_told(out) > 1, lambda: _said(tmp_path))
    job.send_signal(signal.SIGTERM)  # scancel tells the script, and the steps too
    time.sleep(1)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(120) != 0 and steps_saved(out)
    assert not (tmp_path / "spool/requeued").exists()


@pytest.mark.parametrize("name", ["", "config=a.yaml", "runs/a"])
def test_a_job_without_a_name_starts_nothing(slurm, tmp_path, name):
    assert slurm(name, "steps=1").wait(20) == 2
    said = (tmp_path / "spool/said").read_text()
    assert (
        said.startswith("usage: sbatch --nodes=N --gpus-per-node=G docker/slurm_train.sh NAME config=...")
        and said.count("\n") == 1
    )


@pytest.mark.parametrize(("restart", "starts", "code"), [("yes", 2, 0), ("no", 1, 1)])
def test_a_machine_starts_the_run_again_after_another_one_was_preempted_only_with_restart(
    tmp_path, restart, starts, code
):
    """A stand-in for the launcher fails and leaves REQUEUE the first time, and succeeds the second time."""
    launcher = tmp_path / "python"
    launcher.write_text(
        f'#!/bin/sh\necho "$@" >>{tmp_path}/starts\n[ $(wc -l <{tmp_path}/starts) = 2 ] && exit 0\n'
        f"sleep 0.1; touch {tmp_path}/REQUEUE; exit 1\n"
    )
    launcher.chmod(0o755)
    variables = {"PYTHON": str(launcher), "NODE": "1", "NODES": "2", "GPUS": "4", "HEAD": "host0", "RESTART": restart}
    command = ["bash", "docker/train_node.sh", str(tmp_path), "steps=1"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | variables, timeout=60, check=False)
    lines = (tmp_path / "starts").read_text().splitlines()
    assert done.returncode == code and len(lines) == starts
    assert lines[-1].startswith("-m accelerate.commands.launch --config_file configs/accelerate/multi_node.yaml ")
    assert lines[-1].endswith(
        "--num_machines 2 --num_processes 8 --machine_rank 1 "
        "--main_process_ip host0 --main_process_port 29500 -m train steps=1"
    )


# ---------------------------------------------------------------------------------------------- Kubernetes


@pytest.fixture(scope="module")
def parts():
    return list(yaml.safe_load_all((DOCKER / "k8s_train.yaml").read_text()))


def test_service_and_job_say_what_a_training_on_several_machines_needs(parts):
    service, job = parts
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    assert (service["kind"], job["apiVersion"], job["kind"], spec["completionMode"]) == (
        "Service",
        "batch/v1",
        "Job",
        "Indexed",
    )
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["publishNotReadyAddresses"] is True
    assert (
        service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
        and pod["subdomain"] == service["metadata"]["name"]
    )
    assert variables["HEAD"] == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert spec["completions"] == spec["parallelism"] == int(variables["NODES"])
    assert variables["GPUS"] == container["resources"]["limits"]["nvidia.com/gpu"]
    assert pod["restartPolicy"] == "Never", "backoffLimitPerIndex and podFailurePolicy allow no other"
    ignored = [rule for rule in spec["podFailurePolicy"]["rules"] if rule["action"] == "Ignore"]
    assert ignored[0]["onPodConditions"] == [{"type": "DisruptionTarget"}] and ignored[1]["onExitCodes"]["values"] == [
        75
    ]
    assert ignored[1]["onExitCodes"]["containerName"] == container["name"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert (
        "/dev/shm" in {mount["mountPath"] for mount in container["volumeMounts"]}
        and pod["terminationGracePeriodSeconds"] >= 240
    )
    assert pod["securityContext"]["runAsUser"] == int(dict(_instructions())["USER"])
    assert container["args"][0] == f"runs/{next(a for a in container['args'] if a.startswith('name='))[5:]}"
    for name in re.findall(r"configs/\S+\.yaml", " ".join(container["args"])):
        assert (ROOT / name).is_file()


@pytest.mark.slow
def test_when_one_pod_is_evicted_all_save_and_the_other_waits_for_the_one_in_its_place(
    parts, settings, machine, tmp_path
):
    out = tmp_path / "out"
    (container,) = parts[1]["spec"]["template"]["spec"]["containers"]
    variables = {entry["name"]: entry["value"] for entry in container["env"]} | {"HEAD": "localhost", "GPUS": "1"}
    arguments = [str(out / "a"), *_arguments(settings, out, "steps=40", "name=a")]
    pods = []

    def start(index):
        with (tmp_path / f"pod{index}").open("ab") as said:
            environment = machine | variables | {"JOB_COMPLETION_INDEX": str(index)}
            command = ["bash", "docker/train_node.sh", *arguments]  # in the image it lies in the working folder
            pods.append(
                subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said, start_new_session=True)
            )
        return pods[-1]

    def said():
        return "\n".join((tmp_path / f"pod{index}").read_text() for index in (0, 1))

    try:
        stays, goes = start(0), start(1)
        _wait(lambda: _steps_told(out) > 2, said)
        goes.send_signal(signal.SIGTERM)  # to the first process of the container alone
        assert goes.wait(120) == 75, said()
        (saved,) = steps_saved(out)
        assert 2 < saved < 40 and stays.poll() is None
        comes = start(1)
        assert (stays.wait(250), comes.wait(60)) == (0, 0), said()
    finally:
        for pod in pods:
            _end(pod)
    assert f"resuming after step {saved} of" in said() and "trained 40 steps on 2 processes" in said()
    assert [json.loads(line)["step"] for line in (out / "a/history.jsonl").read_text().splitlines()] == list(
        range(1, 41)
    )
