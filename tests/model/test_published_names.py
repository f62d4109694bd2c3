"""Models by name: folders, the Hugging Face Hub, published checkpoints; and one line for everything else."""

import os
import subprocess
import sys

import pytest
import torch
from fake_hub import COMMIT, fake_hub
from paths import ROOT
from tiny_localizer import save_tiny

from model.hub import load_pretrained
from model.published import PACKAGED, HubOptions, locate


def test_a_folder_and_a_name_are_told_apart(tmp_path, monkeypatch):
    folder = save_tiny(tmp_path / "toy")
    monkeypatch.chdir(tmp_path)
    assert locate(folder) == folder and str(locate("./toy")) == "toy"
    assert locate("toy") == PACKAGED / "toy"
    loaded = load_pretrained("./toy", "cpu")
    assert loaded.config.embed_dim == 16 and not loaded.model.training


@pytest.mark.parametrize("name", ["nothing", "a/b/c", "./runs/demo", "/tmp/no such", "", "user/na me"])
def test_no_such_model_is_one_line_that_lists_what_is_accepted(name):
    with pytest.raises(
        ValueError, match=r"no such file or folder; allowed is a run folder.*user/name.*sound, lang"
    ) as e:
        locate(name)
    assert "\n" not in str(e.value)


def test_a_published_name_without_a_download_is_one_line_with_the_address(tmp_path):
    options = HubOptions(cache_dir=tmp_path, local_files_only=True)
    with pytest.raises(ValueError, match=r"denseav_2head\.ckpt: no such file, and local_files_only=True; it is"):
        locate("sound_and_language", options)
    (tmp_path / "denseav_sound.ckpt").write_bytes(b"")
    assert locate("sound", options) == tmp_path / "denseav_sound.ckpt"


def test_a_file_that_is_no_checkpoint_is_one_line(tmp_path):
    torch.save({"state_dict": {"weight": torch.zeros(2)}}, tmp_path / "other.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    for name, message in (
        ("other.ckpt", "not a checkpoint of a supported system"),
        ("text.ckpt", "cannot be read without running code in it"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            load_pretrained(tmp_path / name)
        assert "\n" not in str(error.value)


SHARE = """
import sys
import torch
import denseav
from pathlib import Path

folder, cache = Path(sys.argv[1]), sys.argv[2]
model = denseav.load(folder, device="cpu")
print(model.push_to_hub("ana/tiny-av", private=True, token="secret"))

again = denseav.load("ana/tiny-av", device="cpu", cache_dir=cache, token="secret")
ours, theirs = model.model.state_dict(), again.model.state_dict()
print("equal", ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours))
pinned = denseav.load("ana/tiny-av", revision=sys.argv[3], cache_dir=cache, token="secret")
print("pinned", pinned.folder == again.folder)
print("offline", denseav.load("ana/tiny-av", cache_dir=cache, local_files_only=True).folder == again.folder)
for options in ({"token": "wrong"}, {"token": "secret", "revision": "v9"}, {"local_files_only": True}):
    try:
        denseav.load("ana/tiny-av", cache_dir=cache + "-empty", **options)
    except ValueError as error:
        print("refused", str(error).count(chr(10)), error)
try:
    model.push_to_hub("ana/tiny-av", token="wrong")
except ValueError as error:
    print("refused", str(error).count(chr(10)), error)
"""


def test_a_model_is_shared_on_the_hub_and_loaded_with_revision_token_and_cache(tmp_path):
    folder = save_tiny(tmp_path / "tiny")
    with fake_hub("secret") as hub:
        environment = os.environ | {
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(tmp_path / "home"),
            "PYTHONPATH": str(ROOT),
        }
        environment |= {"HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            [sys.executable, "-c", SHARE, folder, str(tmp_path / "cache"), COMMIT],
            cwd=tmp_path,
            env=environment | {"PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_XET": "1"},
            capture_output=True,
            text=True,
            timeout=250,
        )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:4] == [f"{hub.address}/ana/tiny-av/commit/{COMMIT}", "equal True", "pinned True", "offline True"]
    assert len(lines) == 8 and all(line.startswith("refused 0 ") for line in lines[4:]), lines
    assert "model 'ana/tiny-av': no such folder, and no download from the Hugging Face Hub" in lines[4]
    assert "repo_id=ana/tiny-av: cannot be uploaded" in lines[7]
    assert set(hub.files) == {"config.json", "model.safetensors", "README.md"}
    assert b'denseav.load("ana/tiny-av")' in hub.files["README.md"]
