"""docs/upsampling.md: its commands and Python run as they stand."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest
import torch
from markdown_blocks import code_blocks
from paths import ROOT
from PIL import Image

import denseav

PAGE = (ROOT / "docs/upsampling.md").read_text()
# Needs the demo; e2e/test_documented_commands.py runs it.
DEMO = "python -m eval.run"


@pytest.mark.slow
def test_the_commands_and_the_python_run_in_order(tmp_path, monkeypatch):
    shutil.copy(denseav.example_clips()[0], tmp_path / "clip.mp4")
    denseav.load("toy").localize(tmp_path / "clip.mp4").overlay(0).save(tmp_path / "dog.jpg")
    commands = [line for text in code_blocks(PAGE, "bash") for line in text.splitlines() if not line.startswith(DEMO)]
    assert len(commands) == 3
    for command in commands:
        _, *words = shlex.split(command)
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"
    assert (tmp_path / "sharp.mp4").stat().st_size > 1000
    for name in ("features", "fitted"):
        with Image.open(tmp_path / name / "features.png") as picture:
            assert picture.width > 3 * picture.height
    monkeypatch.chdir(tmp_path)
    found: dict = {"model": denseav.load("toy")}
    for block in code_blocks(PAGE, "python"):
        exec(block, found)
    assert found["result"].heatmaps.isfinite().all()
    assert found["network"](torch.randn(1, 3, 96, 96)).shape[2:] == (96, 96)
