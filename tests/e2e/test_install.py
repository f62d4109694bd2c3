"""The wheel in an environment outside the repository: commands, configuration files and Python run from any folder."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile

import numpy as np
import pytest
import soundfile
from paths import ROOT
from PIL import Image
from tiny_localizer import save_tiny
from tiny_media import write_video

from model.published import PACKAGED

COMMANDS = ["train", "eval.run", "eval.render", "eval.report", "model.export", "model.convert", "pipelines.build"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built as pip does."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """An interpreter with the wheel and the packages it depends on, which does not see the repository."""
    root = tmp_path_factory.mktemp("environment")
    venv.create(root, with_pip=False)
    site = root / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # A path file adds the folder alone, not the editable install of the repository that it may point to.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return root / "bin/python"


def run(python, folder, *arguments, **environment):
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    return subprocess.run(
        [python, *arguments], cwd=folder, env=clean | environment, capture_output=True, text=True, timeout=280
    )


def test_wheel_contains_everything_the_code_reads(wheel):
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    top_level = {"configs", "pipelines", "model", "eval", "train.py", "denseav.py"}
    ours = [path for path in tracked if path.split("/")[0] in top_level]
    packed = zipfile.ZipFile(wheel).namelist()
    assert not set(ours) - set(packed)
    assert {name.split("/")[0] for name in packed if ".dist-info" not in name} == top_level


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run_from_any_folder(python, tmp_path, command):
    done = run(python, tmp_path, "-m", command, "--help")
    assert done.returncode == 0 and "keys" in done.stdout, done.stderr


def test_configuration_files_of_the_wheel_are_found_from_any_folder(python, tmp_path):
    done = run(python, tmp_path, "-m", "train", "config=configs/train/toy.yaml", "steps=0")
    assert done.returncode == 2 and "steps=0 must be 1 or more" in done.stderr, done.stderr


THREE_LINES = """
import denseav

model = denseav.load({name!r})
result = model.localize({clip!r})
result.save("where.mp4", view="heatmap")
print(model.localize("dog.jpg", "bark.wav").save("where.png"), model.score(["dog.jpg"], ["bark.wav"]).shape)
print(denseav.__file__, denseav.__version__)
"""


def three_lines(python, folder, name, clip):
    Image.fromarray(np.full((30, 50, 3), 90, np.uint8)).save(folder / "dog.jpg")
    soundfile.write(folder / "bark.wav", np.sin(np.arange(44100) / 9), 44100)
    (folder / "script.py").write_text(THREE_LINES.format(name=name, clip=clip))
    done = run(python, folder, "script.py")
    assert done.returncode == 0, done.stderr
    assert "where.png torch.Size([1, 1])" in done.stdout and str(python.parents[1]) in done.stdout
    assert (folder / "where.mp4").stat().st_size > 1000 and (folder / "where.png").stat().st_size > 100


@pytest.mark.slow
def test_the_three_lines_run_outside_of_the_repository(python, tmp_path):
    save_tiny(tmp_path / "exported/demo")
    write_video(tmp_path / "clip.mp4")
    three_lines(python, tmp_path, "exported/demo", "clip.mp4")


@pytest.mark.slow
@pytest.mark.skipif(not (PACKAGED / "toy").is_dir(), reason="the toy model is not in this checkout")
def test_the_wheel_brings_a_model_and_example_clips(python, tmp_path):
    done = run(python, tmp_path, "-c", "import denseav; print(*denseav.example_clips(), sep='\\n')")
    clips = done.stdout.splitlines()
    assert len(clips) == 3 and all(clip.startswith(str(python.parents[1])) for clip in clips), done.stderr
    three_lines(python, tmp_path, "toy", clips[0])


def test_a_second_installation_of_another_version_does_not_mix_with_the_first(python, wheel, tmp_path):
    other = tmp_path / "other"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(other)
    show = "import configs, eval, model, pipelines; "
    show += "print(*{m.__file__.rsplit('/', 2)[0] for m in (configs, eval, model, pipelines)})"
    done = run(python, tmp_path, "-c", show, PYTHONPATH=str(other))
    assert done.returncode == 0 and done.stdout.strip() == str(other), done.stderr


def test_a_damaged_installation_is_one_error_line(python, wheel, tmp_path):
    broken = tmp_path / "broken"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(broken)
    for path in [*(broken / "eval").rglob("*.css"), *(broken / "eval").rglob("*.j2")]:
        path.unlink()
    code = "from eval.report.write import write_report; from eval.results import Results; from pathlib import Path\n"
    code += "from configs.cli import run; from configs.schema import NoSettings; import sys\n"
    code += "sys.exit(run(NoSettings, '', lambda c: write_report(Results({}, {}, []), Path('.'), [], None), []))"
    done = run(python, tmp_path, "-c", code, PYTHONPATH=str(broken))
    assert done.returncode in (1, 2) and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
