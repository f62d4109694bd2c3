"""The image and the compose file of the web page: linted, locked packages, no root, no writable file system."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import yaml
from dockerfile import parse, replay
from paths import ROOT

from configs.load import load
from configs.schema import AppConfig

IMAGE, COMPOSE = ROOT / "docker/app.Dockerfile", ROOT / "docker/compose.yaml"


def _service() -> dict:
    return yaml.safe_load(COMPOSE.read_text())["services"]["app"]


def test_hadolint_reports_nothing():
    command = [Path(sys.executable).parent / "hadolint", "--failure-threshold", "info", IMAGE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_installs_locked_packages_then_the_wheel_and_runs_without_root():
    wheel, final = parse(IMAGE)
    assert wheel.base == final.base and re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", final.base)
    assert final.all("COPY") == ["requirements.lock /tmp/", "--from=wheel /wheels/*.whl /tmp/"]
    locked, ours = final.all("RUN")
    assert "--require-hashes -r /tmp/requirements.lock" in locked and "--only-binary=:all:" in locked
    assert "--no-deps /tmp/*.whl" in ours
    assert final.all("USER")[0].isdecimal() and final.all("ENTRYPOINT") == ['["python", "-m"]']
    (health,) = final.all("HEALTHCHECK")
    assert "/health" in health and final.all("EXPOSE") == ["7860"]


def test_the_command_line_of_the_image_and_of_compose_are_settings_of_the_app():
    (command,) = re.findall(r'"([^"]*)"\]', parse(IMAGE)[1].all("CMD")[0].replace('", "', " "))
    usage = re.findall(r"^#       denseav-app (.*)$", IMAGE.read_text(), flags=re.MULTILINE)
    compose = [re.sub(r"\$\{\w+:-(.*?)\}", r"\1", word) for word in _service()["command"]]
    for module, *settings in (shlex.split(command), *map(shlex.split, usage), compose):
        config = load(AppConfig, settings)
        assert module == "eval.app" and config.host == "0.0.0.0" and config.port == 7860
    assert config.checkpoint == "toy"


def test_compose_publishes_on_this_machine_only_and_limits_the_container():
    service = _service()
    assert service["ports"] == ["${ADDRESS:-127.0.0.1}:7860:7860"]
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["user"] == "10001:10001"
    assert service["security_opt"] == ["no-new-privileges:true"] and service["init"]
    assert (
        service["pids_limit"] and service["mem_limit"] and all(volume.endswith(":ro") for volume in service["volumes"])
    )
    (tmpfs,) = service["tmpfs"]
    size_gb = float(re.search(r"size=(\d+)g", tmpfs)[1])
    settings = dict(word.split("=", 1) for word in service["command"] if "=" in word)
    assert tmpfs.startswith("/tmp:") and float(settings["temp_gb"]) < size_gb, (
        "the app must notice before the disk is full"
    )
    assert (COMPOSE.parent / service["build"]["context"] / service["build"]["dockerfile"]).resolve() == IMAGE


def test_the_replayed_image_starts_the_command(tmp_path):
    """The COPY and RUN steps in an empty root, with the packages of this environment in place of the locked ones."""
    image = replay(IMAGE, tmp_path / "image", shared_packages=True)
    usage = image.run(image.cmd[0], "--help")
    assert usage.returncode == 0 and "max_duration_s" in usage.stdout, usage.stderr
    code = (
        "import eval.app as app, pathlib; print(pathlib.Path(app.__file__).with_name('page.css').resolve(strict=True))"
    )
    where = image.execute([image.python, "-c", code])
    assert where.stdout.startswith(f"{image.root}/opt/venv/lib/"), where.stderr
