"""docs/using.md and the notebook: all their Python runs as it stands, on the model in the package."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import nbformat
import numpy as np
import pytest
import soundfile
import torch
from markdown_blocks import code_blocks
from paths import ROOT
from PIL import Image
from tiny_app import tiny_app

import denseav
from model.published import NAMES, PACKAGED

PAGE = (ROOT / "docs/using.md").read_text()
NOTEBOOK = ROOT / "examples/quickstart.ipynb"
needs_toy = pytest.mark.skipif(not (PACKAGED / "toy").is_dir(), reason="the toy model is not in this checkout")


def _write_media(folder: Path) -> None:
    """The files that the page names."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 60, 80, 3), dtype=np.uint8)
    for name, image in zip(("dog.jpg", "cat.jpg"), pixels, strict=True):
        Image.fromarray(image).save(folder / name)
    soundfile.write(folder / "bark.wav", np.random.default_rng(0).uniform(-0.3, 0.3, 44100), 44100)
    (folder / "clip.mp4").write_bytes(denseav.example_clips()[0].read_bytes())
    (folder / "REPOSITORY").symlink_to(ROOT)


@needs_toy
@pytest.mark.slow
def test_the_python_of_the_page_runs_in_order_as_it_stands(tmp_path, monkeypatch):
    _write_media(tmp_path)
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    for block in code_blocks(PAGE, "python"):
        exec(block, found)
    assert found["scores"].shape == (1, 2) and found["nearest"].shape == (1,)
    for name in ("where.mp4", "where.png", "heads.mp4", "beside.png", "exported/mine/README.md"):
        assert (tmp_path / name).stat().st_size > 500, name
    assert isinstance(found["model"], denseav.Localizer)


@needs_toy
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_commands_of_the_page_run_in_order_as_they_stand(tmp_path):
    pytest.importorskip("lancedb")
    _write_media(tmp_path)
    (tmp_path / "videos").mkdir()
    for clip in denseav.example_clips():
        shutil.copy(clip, tmp_path / "videos")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    lines = [line for block in code_blocks(PAGE, "bash") for line in block.splitlines()]
    commands = [shlex.split(line) for line in lines if line.startswith("python ") and "eval.app" not in line]
    assert len(commands) > 6
    for _, *arguments in commands:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (arguments, done.stderr)
    for name in ("heatmap.mp4", "heads.mp4", "dog.png", "found.html"):
        assert (tmp_path / name).stat().st_size > 500, name
    assert len(json.loads((tmp_path / "found.json").read_text())["results"]) == 3


@needs_toy
@pytest.mark.slow
def test_the_page_in_the_browser_is_served(tmp_path):
    pytest.importorskip("gradio")
    with tiny_app(tmp_path, "checkpoint=toy") as app:
        assert httpx.get(app.url).status_code == 200
        assert app.log.read_text().startswith(f"{app.url} (Ctrl-C to stop)")


def test_the_page_names_every_model_and_every_member_of_a_result():
    missing = [name for name in NAMES if f'"{name}"' not in PAGE]
    public = {*vars(denseav.Localizer), *vars(denseav.Localization), *denseav.Localization.__dataclass_fields__}
    used = set(re.findall(r"(?:result|frame|model)\.(\w+)", PAGE))
    assert not missing and len(used) > 15
    assert used - {"export", "convert", "safetensors", "model"} <= public


def test_the_notebook_is_valid_and_holds_no_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) > 5 and not any(cell.outputs or cell.execution_count for cell in code)


@needs_toy
@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    import nbclient

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pictures = [out for cell in notebook.cells for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
    assert len(pictures) == 2 and (tmp_path / "where.mp4").stat().st_size > 1000


@needs_toy
def test_every_example_clip_fits_its_own_sound_best():
    model, clips = denseav.load("toy", device="cpu"), denseav.example_clips()
    frames = [model.localize(clip, max_fps=1).frames[1].permute(1, 2, 0) for clip in clips]
    scores = model.score(frames, clips)
    assert len(clips) == 3 and torch.equal(scores.argmax(dim=1), torch.arange(3)), scores
