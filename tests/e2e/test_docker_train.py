"""The image for training: linted, from the locked packages, which all have wheels for its Python."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from dockerfile import instructions
from paths import ROOT

BIN, IMAGE = Path(sys.executable).parent, ROOT / "docker/train.Dockerfile"
SCRIPTS = ["docker/train_node.sh", "docker/slurm_train.sh"]


@pytest.mark.parametrize(
    "command",
    [["hadolint", "--failure-threshold", "info", "docker/train.Dockerfile"], ["shellcheck", *SCRIPTS]],
    ids=lambda c: c[0],
)
def test_the_linters_have_nothing_to_say(command):
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_has_cuda_the_locked_packages_our_code_and_no_root():
    lines = instructions(IMAGE)
    base = next(rest for word, rest in lines if word == "ARG")
    assert re.fullmatch(r"BASE=nvidia/cuda:13\.\d+\.\d+-base-ubuntu24\.04", base)
    copies = [rest.split() for word, rest in lines if word == "COPY"]
    copied = {path for paths in copies if not paths[0].startswith("--from") for path in paths[:-1]}
    of_the_wheel = {"pyproject.toml", "README.md", "LICENSE", "configs", "pipelines", "model", "eval", "train.py"} | {
        "denseav.py"
    }
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
    assert dict(instructions(IMAGE))["ARG"].split(":")[1].startswith(toolkit)


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
