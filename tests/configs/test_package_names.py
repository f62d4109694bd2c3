"""A user's own module with the name of one of our packages is reported in one line, in real processes."""

import os
import subprocess
import sys

import pytest
from paths import ROOT

from configs.package_names import PACKAGES, find_shadowed_package


def python(folder, *arguments):
    """Run Python in a folder with the repository on PYTHONPATH."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


def test_no_package_is_shadowed_in_the_repository():
    assert find_shadowed_package() is None


@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("model.py", "pipelines.verify"),
        ("model.py", "eval.report"),
        ("eval/__init__.py", "pipelines.verify"),
        ("eval/__init__.py", "model.convert"),
    ],
)
def test_a_command_beside_a_module_of_the_user_with_our_name_fails_in_one_line(tmp_path, file, command):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("raise RuntimeError('must not be imported')\n")
    done = python(tmp_path, "-m", command, "x")
    name = file.split("/")[0].removesuffix(".py")
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {name} would be imported from {tmp_path / file}, not from {ROOT}: rename it or run from another "
        "folder (names used: configs, pipelines, model, eval)\n"
    )


def test_help_and_unrelated_modules_of_the_user_work(tmp_path):
    for name in ("train.py", "utils.py"):
        (tmp_path / name).write_text("raise RuntimeError('must not be imported')\n")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/toy.yaml").write_text("{}\n")
    assert python(tmp_path, "-m", "pipelines.doctor", "--help").returncode == 0
    done = python(tmp_path, "-m", "pipelines.verify", "nowhere")
    assert "nowhere" in done.stderr and "would be imported" not in done.stderr


@pytest.mark.parametrize(
    ("file", "statement"),
    [
        ("configs.py", "import pipelines.verify"),
        ("configs/__init__.py", "import model.hub"),
        ("model.py", "import eval.run"),
    ],
)
def test_a_script_beside_a_module_of_the_user_with_our_name_fails_with_a_line_that_names_it(tmp_path, file, statement):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    (tmp_path / "script.py").write_text(statement)
    done = python(tmp_path, "script.py")
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and last.startswith("ImportError: ") and str(tmp_path / file) in last


def test_a_package_that_a_library_import_does_not_need_may_be_shadowed(tmp_path):
    (tmp_path / "eval.py").touch()
    (tmp_path / "script.py").write_text("import model.encoders.tiny")
    assert python(tmp_path, "script.py").returncode == 0


@pytest.mark.parametrize("name", PACKAGES)
def test_the_first_shadowed_package_is_reported(name, tmp_path, monkeypatch):
    (tmp_path / f"{name}.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, name, raising=False)
    assert find_shadowed_package([name]).startswith(f"{name} would be imported from {tmp_path / name}.py, not from ")
