"""docker/: linters, the replayed training image, and multi-node training by SLURM and Kubernetes in real processes.

Both machines are this one; sbatch, srun and scontrol are stand-ins that run jobs at once."""

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
from dockerfile import parse, replay
from paths import ROOT
from tiny_runs import settings_of_a_run, steps_saved

BIN, DOCKER = Path(sys.executable).parent, ROOT / "docker"
SCRIPTS = ["docker/train_node.sh", "docker/slurm_train.sh"]


@pytest.mark.parametrize(
    "command",
    [["hadolint", "--failure-threshold", "info", "docker/train.Dockerfile"], ["shellcheck", *SCRIPTS]],
    ids=lambda c: c[0],
)
def test_hadolint_and_shellcheck_report_nothing(command):
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


# ---------------------------------------------------------------------------------------------- image


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The training image, replayed with the packages of this environment in place of the locked ones."""
    return replay(DOCKER / "train.Dockerfile", tmp_path_factory.mktemp("image"), shared_packages=True)


def test_the_image_has_cuda_locked_packages_and_the_wheel_and_runs_without_root():
    python, wheel, final = parse(DOCKER / "train.Dockerfile")
    assert re.fullmatch(r"nvidia/cuda:13\.\d+\.\d+-base-ubuntu24\.04", python.base)
    assert wheel.base == final.base == python.name
    # The packages come before our code: a change of the code must not install them again.
    expected = ["requirements.lock /tmp/", "--from=wheel /wheels/*.whl /tmp/", "docker/train_node.sh ./"]
    assert final.all("COPY") == expected
    locked, ours, _ = final.all("RUN")
    assert "--require-hashes -r /tmp/requirements.lock" in locked and "--only-binary=:all:" in locked
    assert "--no-deps /tmp/*.whl" in ours
    assert final.all("USER")[0].isdecimal() and final.all("ENTRYPOINT") == ['["python", "-m"]']


def test_the_replayed_image_runs_the_installed_commands(image):
    assert {path.name for path in image.cwd.iterdir()} == {"configs", "train_node.sh"}
    names = ("configs", "pipelines", "model", "eval", "train")
    code = f"import importlib.util as u; print(*(u.find_spec(name).origin for name in {names}))"
    origins = image.execute([image.python, "-c", code]).stdout.split()
    assert len(origins) == 5 and all(path.startswith(f"{image.root}/opt/venv/lib/") for path in origins)
    for path in (ROOT / "configs/accelerate").iterdir():
        assert (image.cwd / "configs/accelerate" / path.name).read_bytes() == path.read_bytes()
    assert image.cmd == ["accelerate.commands.launch", "-m", "train", "--help"]
    for command in ("train", "eval.run"):
        done = image.run(command, "--help")
        assert done.returncode == 0 and "keys" in done.stdout, done.stderr


@pytest.mark.slow
def test_the_replayed_image_trains_with_accelerate_launch(image, settings, tmp_path):
    usage = image.run(*image.cmd)
    assert usage.returncode == 0 and "keys" in usage.stdout, usage.stderr
    launch = ["accelerate.commands.launch", "--config_file", "configs/accelerate/cpu.yaml", "-m", "train"]
    done = image.run(*launch, *_arguments(settings, tmp_path / "out", "name=a", "steps=2"), timeout=200)
    assert done.returncode == 0 and steps_saved(tmp_path / "out") == [2], done.stderr


@pytest.mark.slow
def test_the_locked_packages_and_the_wheel_alone_run_every_command(tmp_path):
    image = replay(DOCKER / "train.Dockerfile", tmp_path / "image", shared_packages=False)
    for command in ("train", "eval.run", "eval.report", "model.convert", "pipelines.build"):
        done = image.run(command, "--help")
        assert done.returncode == 0 and "keys" in done.stdout, done.stderr
    done = image.execute([image.python, "-c", "import model.training.step, eval.report.html, model.hub"], timeout=200)
    assert done.returncode == 0, done.stderr


def test_the_lock_matches_the_cuda_of_the_image_and_names_no_index():
    lock = (ROOT / "requirements.lock").read_text()
    names = set(re.findall(r"^([a-z][\w.-]*)==", lock, flags=re.MULTILINE))
    assert {"torch", "accelerate", "wandb", "tensorboard", "nvidia-nccl-cu13"} <= names and "://" not in lock
    (toolkit,) = re.findall(r"^cuda-toolkit==(\d+\.\d+)", lock, flags=re.MULTILINE)
    assert parse(DOCKER / "train.Dockerfile")[0].base.split(":")[1].startswith(toolkit)


@pytest.mark.slow
def test_every_locked_package_has_a_wheel_for_the_python_of_the_image(tmp_path):
    """Asks the registry, installs nothing."""
    platform = ["--python-version", "3.12", "--python-platform", "x86_64-manylinux_2_39"]
    command = [BIN / "uv", "pip", "install", "--dry-run", "--target", tmp_path, *platform, "--only-binary", ":all:"]
    lock = ROOT / "requirements.lock"
    done = subprocess.run([*command, "--require-hashes", "-r", lock], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^torch==[0-9.]+", lock.read_text(), re.MULTILINE)[0] in done.stderr


# ---------------------------------------------------------------------------------------------- two machines


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return settings_of_a_run(tmp_path_factory.mktemp("data"))


@pytest.fixture
def machine(tmp_path):
    """Environment of a machine without GPUs: the same launch on the CPU, with an unused port."""
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
    """Kill a process and its descendants, if a failed test left them running."""
    pids = [process.pid] if process.poll() is None else []
    for pid in pids:
        pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    process.wait()


def _wait(condition, output, seconds=200.0):
    limit_s = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < limit_s, output()
        time.sleep(0.05)
    return result


def _logged_steps(out):
    path = out / "a/history.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


SRUN = """#!/usr/bin/env bash
# Starts the task on each node at once; forwards SIGUSR1 to every process of every task, as srun does.
while [[ "$1" == --* ]]; do shift; done
tasks=()
for node in $(seq 0 $((SLURM_JOB_NUM_NODES - 1))); do
    SLURM_NODEID=$node setsid "$@" >>"$SPOOL/node$node" 2>&1 &
    tasks+=($!)
done
descendants() {
    for child in $(cat "/proc/$1/task/$1/children" 2>/dev/null); do echo "$child"; descendants "$child"; done
}
forward_signal() { for task in "${tasks[@]}"; do kill -USR1 "$task" $(descendants "$task") 2>/dev/null; done; }
trap forward_signal USR1
status=0
for task in "${tasks[@]}"; do
    while true; do
        wait "$task"; code=$?
        kill -0 "$task" 2>/dev/null || break
    done
    [ "$code" -gt "$status" ] && status=$code
done
exit $status
"""
SCONTROL = """#!/usr/bin/env bash
case $1 in
show) for node in $(seq "$SLURM_JOB_NUM_NODES"); do echo localhost; done ;;
requeue) echo "$2" >>"$SPOOL/requeued" ;;
esac
"""


@pytest.fixture
def slurm(tmp_path, machine):
    """Start the batch script as SLURM would on two nodes, in its own session; its output goes to spool/log."""
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
        with (tmp_path / "spool/log").open("ab") as log:
            command = ["bash", str(tmp_path / "spool/script"), *arguments]
            started.append(
                subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
            )
        return started[-1]

    yield start
    for process in started:
        _end(process)


def _output(tmp_path):
    return "\n".join(path.read_text() for path in (tmp_path / "spool").iterdir() if path.name != "script")


@pytest.mark.slow
def test_a_slurm_job_trains_on_two_nodes_saves_before_the_time_limit_and_requeues(settings, slurm, tmp_path):
    out = tmp_path / "out"
    job = slurm("a", *_arguments(settings, out, "steps=100000"))
    _wait(lambda: _logged_steps(out) > 3, lambda: _output(tmp_path))
    job.send_signal(signal.SIGUSR1)  # --signal=B:USR1@300
    assert job.wait(120) == 0, _output(tmp_path)
    assert len((tmp_path / "spool/requeued").read_text().split()) == 1
    assert (out / "a/REQUEUE").read_text().startswith("SIGUSR1 after step ")
    (saved,) = steps_saved(out)
    assert saved == _logged_steps(out) > 3
    again = slurm("a", *_arguments(settings, out, f"steps={saved + 2}"))  # as the queue does later
    assert again.wait(200) == 0, _output(tmp_path)
    assert not (out / "a/REQUEUE").exists() and "on 2 processes" in (tmp_path / "spool/node0").read_text()
    assert steps_saved(out)[-1] == saved + 2 and len((tmp_path / "spool/requeued").read_text().split()) == 1


@pytest.mark.slow
def test_a_cancelled_or_invalid_job_is_not_requeued(settings, slurm, tmp_path):
    out = tmp_path / "out"
    wrong = slurm("a", *_arguments(settings, out, "steps=10", "on=y"))
    assert wrong.wait(200) != 0 and "unknown key 'on'" in _output(tmp_path)
    job = slurm("a", *_arguments(settings, out, "steps=100000"))
    _wait(lambda: _logged_steps(out) > 1, lambda: _output(tmp_path))
    job.send_signal(signal.SIGTERM)  # scancel signals the script and the steps
    time.sleep(1)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(120) != 0 and steps_saved(out)
    assert not (tmp_path / "spool/requeued").exists()


@pytest.mark.parametrize("name", ["", "config=a.yaml", "runs/a"])
def test_a_job_without_a_run_name_starts_nothing(slurm, tmp_path, name):
    assert slurm(name, "steps=1").wait(20) == 2
    log = (tmp_path / "spool/log").read_text()
    assert log.startswith("usage: sbatch --nodes=N --gpus-per-node=G docker/slurm_train.sh NAME config=...")
    assert log.count("\n") == 1


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
def manifests():
    return list(yaml.safe_load_all((DOCKER / "k8s_train.yaml").read_text()))


def test_service_and_job_define_a_complete_multi_node_training(manifests):
    service, job = manifests
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
    assert pod["restartPolicy"] == "Never", "required by backoffLimitPerIndex and podFailurePolicy"
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
    assert pod["securityContext"]["runAsUser"] == int(parse(DOCKER / "train.Dockerfile")[-1].all("USER")[0])
    assert container["args"][0] == f"runs/{next(a for a in container['args'] if a.startswith('name='))[5:]}"
    for name in re.findall(r"configs/\S+\.yaml", " ".join(container["args"])):
        assert (ROOT / name).is_file()


@pytest.mark.slow
def test_when_one_pod_is_evicted_all_save_and_the_others_wait_for_its_replacement(
    manifests, settings, machine, tmp_path
):
    out = tmp_path / "out"
    (container,) = manifests[1]["spec"]["template"]["spec"]["containers"]
    variables = {entry["name"]: entry["value"] for entry in container["env"]} | {"HEAD": "localhost", "GPUS": "1"}
    arguments = [str(out / "a"), *_arguments(settings, out, "steps=40", "name=a")]
    pods = []

    def start(index):
        with (tmp_path / f"pod{index}").open("ab") as log:
            environment = machine | variables | {"JOB_COMPLETION_INDEX": str(index)}
            command = ["bash", "docker/train_node.sh", *arguments]  # in the image it is in the working folder
            pods.append(
                subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
            )
        return pods[-1]

    def output():
        return "\n".join((tmp_path / f"pod{index}").read_text() for index in (0, 1))

    try:
        staying, evicted = start(0), start(1)
        _wait(lambda: _logged_steps(out) > 2, output)
        evicted.send_signal(signal.SIGTERM)  # only to the first process of the container
        assert evicted.wait(120) == 75, output()
        (saved,) = steps_saved(out)
        assert 2 < saved < 40 and staying.poll() is None
        replacement = start(1)
        assert (staying.wait(250), replacement.wait(60)) == (0, 0), output()
    finally:
        for pod in pods:
            _end(pod)
    assert f"going on after step {saved} of" in output() and "trained 40 steps on 2 processes" in output()
    assert [json.loads(line)["step"] for line in (out / "a/history.jsonl").read_text().splitlines()] == list(
        range(1, 41)
    )
