"""docker/k8s_train.yaml without Kubernetes: its service and job, and an eviction with real processes as pods."""

import json
import re
import signal
import subprocess

import pytest
import yaml
from dockerfile import instructions
from paths import ROOT
from tiny_machines import arguments, end, steps_logged, wait
from tiny_runs import steps_saved


@pytest.fixture(scope="module")
def parts():
    return list(yaml.safe_load_all((ROOT / "docker/k8s_train.yaml").read_text()))


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
    assert pod["securityContext"]["runAsUser"] == int(dict(instructions(ROOT / "docker/train.Dockerfile"))["USER"])
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
    given = [str(out / "a"), *arguments(settings, out, "steps=40", "name=a")]
    pods = []

    def start(index):
        with (tmp_path / f"pod{index}").open("ab") as said:
            environment = machine | variables | {"JOB_COMPLETION_INDEX": str(index)}
            command = ["bash", "docker/train_node.sh", *given]  # in the image it lies in the working folder
            pods.append(
                subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said, start_new_session=True)
            )
        return pods[-1]

    def said():
        return "\n".join((tmp_path / f"pod{index}").read_text() for index in (0, 1))

    try:
        stays, goes = start(0), start(1)
        wait(lambda: steps_logged(out) > 2, said)
        goes.send_signal(signal.SIGTERM)  # to the first process of the container alone
        assert goes.wait(120) == 75, said()
        (saved,) = steps_saved(out)
        assert 2 < saved < 40 and stays.poll() is None
        comes = start(1)
        assert (stays.wait(250), comes.wait(60)) == (0, 0), said()
    finally:
        for pod in pods:
            end(pod)
    assert f"resuming after step {saved} of" in said() and "trained 40 steps on 2 processes" in said()
    assert [json.loads(line)["step"] for line in (out / "a/history.jsonl").read_text().splitlines()] == list(
        range(1, 41)
    )
