"""The public API and the entry points of torch.hub."""

import subprocess
import sys

import pytest
import torch
from paths import ROOT
from tiny_localizer import write_image, write_sound
from tiny_training import save, tiny_config, tiny_state

import denseav
import hubconf
from model.published import NAMES, PACKAGED
from model.published_upsamplers import FEATUP


def test_a_run_a_step_and_an_exported_folder_give_the_same_maps(tmp_path):
    config, run = tiny_config(), tmp_path / "runs/demo"
    step = save(run / "checkpoints", 3, tiny_state(config), config)
    exported = denseav.load(run).save_pretrained(tmp_path / "exported")
    image, sound = write_image(tmp_path / "a.png"), write_sound(tmp_path / "a.wav")
    maps = [denseav.load(folder, device="cpu").localize(image, sound).heatmaps for folder in (run, step, exported)]
    assert torch.equal(maps[0], maps[1]) and torch.equal(maps[0], maps[2])


def test_the_public_names_are_documented():
    assert set(denseav.__all__) == {"Localization", "Localizer", "__version__", "example_clips", "load"}
    assert isinstance(denseav.__version__, str) and denseav.__version__
    for name in ("Localization", "Localizer", "example_clips", "load"):
        assert getattr(denseav, name).__doc__
    public = [name for name in vars(denseav.Localizer) if not name.startswith("_")]
    undocumented = [name for name in public if not getattr(denseav.Localizer, name).__doc__]
    assert {"localize", "localize_stream", "score", "embed_image", "embed_audio", "save_pretrained"} < set(public)
    assert not undocumented


def test_torch_hub_has_an_entry_for_every_name_and_names_what_it_needs():
    entries = {name for name, value in vars(hubconf).items() if callable(value) and not name.startswith("_")}
    assert entries == {*NAMES, *FEATUP}
    for package in hubconf.dependencies:
        __import__(package)


def test_torch_hub_loads_from_a_copy_of_the_repository(tmp_path):
    (tmp_path / "denseav_sound.ckpt").write_bytes(b"no checkpoint")
    code = (
        "import torch\n"
        f"try: torch.hub.load({str(ROOT)!r}, 'sound', source='local', cache_dir={str(tmp_path)!r})\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert "denseav_sound.ckpt cannot be read without running code in it" in done.stdout, done.stderr


@pytest.mark.skipif(not (PACKAGED / "toy").is_dir(), reason="the toy model is not in this checkout")
def test_the_toy_model_loads_by_name_and_by_torch_hub():
    model = denseav.load("toy", device="cpu")
    again = torch.hub.load(str(ROOT), "toy", source="local", trust_repo=True, device="cpu")
    assert isinstance(again, denseav.Localizer)
    assert torch.equal(model.model.log_scale, again.model.log_scale)
