"""Initial weights from another run, and export of a run."""

import errno
import shutil
import subprocess
import sys

import pytest
import torch
from paths import ROOT
from safetensors.torch import load_file
from tiny_training import save, step, tiny_config, tiny_model, tiny_state

from model.export import main as export
from model.hub import from_pretrained, save_pretrained
from model.training.init_weights import load_init_weights


@pytest.fixture
def trained(tmp_path):
    """A run with two checkpoints, of which the second has other weights; returns (run folder, state)."""
    config = tiny_config("optim.ema_decay=0.9", "optim.lr=0.01")
    state = tiny_state(config)
    for number in (1, 2):
        step(state, number)
        save(tmp_path / "run/checkpoints", number, state, config)
    return tmp_path / "run", state


def _same(a, b):
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def test_run_folder_gives_averaged_weights_of_its_newest_checkpoint(trained):
    run, state = trained
    model = tiny_model(tiny_config(), seed=5)
    assert load_init_weights(model, str(run), []) == run / "checkpoints/step_00000002/ema.safetensors"
    assert _same(model.state_dict(), state.ema.weights(state.model))


def test_checkpoint_and_from_pretrained_folder_are_accepted(trained, tmp_path):
    run, state = trained
    (tmp_path / "out").mkdir()
    save_pretrained(state.model, tiny_config().model, tmp_path / "out")
    for folder, expected in (
        (tmp_path / "out", state.model.state_dict()),
        (run / "checkpoints/step_00000001", load_file(run / "checkpoints/step_00000001/ema.safetensors")),
    ):
        model = tiny_model(tiny_config(), seed=5)
        load_init_weights(model, str(folder), [])
        assert _same(model.state_dict(), expected)


def test_other_shapes_are_an_error_unless_excluded(trained):
    run, state = trained
    wide = tiny_config("model.embed_dim=32")
    with pytest.raises(
        ValueError,
        match=r"init_checkpoint=.*: audio_projection\.\S+ has the shape \[16.* instead of \[32.* more; "
        "name what may differ in init_exclude",
    ):
        load_init_weights(tiny_model(wide), str(run), [])
    model, before = tiny_model(wide, seed=5), tiny_model(wide, seed=5).state_dict()
    load_init_weights(model, str(run), ["audio_projection", "image_projection"])
    mean = state.ema.weights(state.model)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name] if "projection" in name else mean[name]), name


def test_missing_and_superfluous_weights_are_named(trained):
    run, _ = trained
    model = tiny_model(tiny_config())
    model.extra = torch.nn.Linear(1, 1, bias=False)
    with pytest.raises(ValueError, match=r"extra\.weight is missing; name"):
        load_init_weights(model, str(run), [])
    model = tiny_model(tiny_config())
    del model.log_scale
    with pytest.raises(ValueError, match="log_scale is not in the model; name"):
        load_init_weights(model, str(run), [])


@pytest.mark.parametrize(
    ("init_checkpoint", "init_exclude", "message"),
    [
        ("nowhere", [], "init_checkpoint=nowhere: no model found; give a run folder"),
        ("RUN", ["audio_proj"], "init_exclude=audio_proj: no such parameter or module; the model has audio_encoder, "),
    ],
)
def test_unknown_folder_or_module_is_one_line(trained, init_checkpoint, init_exclude, message):
    with pytest.raises(ValueError, match=message):
        load_init_weights(tiny_model(tiny_config()), init_checkpoint.replace("RUN", str(trained[0])), init_exclude)


def _export(checkpoint, out):
    arguments = [sys.executable, "-m", "model.export", f"checkpoint={checkpoint}", f"out={out}"]
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_exported_run_loads_with_averaged_weights(trained, tmp_path):
    run, state = trained
    done = _export(run, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{run}/checkpoints/step_00000002/ema.safetensors -> {tmp_path}/out\n"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
    assert _same(from_pretrained(tmp_path / "out").state_dict(), state.ema.weights(state.model))


def test_damaged_weights_are_not_loaded(trained, tmp_path):
    run, state = trained
    ema = run / "checkpoints/step_00000002/ema.safetensors"
    ema.write_bytes(ema.read_bytes()[:-1] + b"x")
    with pytest.raises(
        ValueError, match=r"init_checkpoint=.*step_00000002 is damaged \(ema\.safetensors has changed\)"
    ):
        load_init_weights(state.model, str(ema.parent), [])
    with pytest.raises(ValueError, match=r"checkpoint=.*step_00000002 is damaged"):
        from_pretrained(ema.parent)
    save_pretrained(state.model, tiny_config().model, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"init_checkpoint=.*model\.safetensors cannot be read"):
        load_init_weights(state.model, str(tmp_path), [])


def test_damaged_checkpoint_is_not_exported(trained, tmp_path):
    from configs.schema import ExportConfig

    folder = trained[0] / "checkpoints/step_00000002"
    (folder / "state.json").write_text("{}")
    with pytest.raises(ValueError, match=r"step_00000002 is damaged \(state\.json has changed\)"):
        export(ExportConfig(str(folder), str(tmp_path / "out")))
    with pytest.raises(ValueError, match="both are required"):
        export(ExportConfig("", str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
    good = str(trained[0] / "checkpoints/step_00000001")
    with pytest.raises(ValueError, match="is a checkpoint: give another folder"):
        export(ExportConfig(good, good))


def test_full_disk_leaves_an_earlier_export_unchanged(trained, tmp_path, monkeypatch):
    from configs.schema import ExportConfig

    out = tmp_path / "out"
    export(ExportConfig(str(trained[0] / "checkpoints/step_00000001"), str(out)))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    real, filled = shutil.copyfileobj, []

    def fills(source, copy):
        filled.append(real(source, copy))
        if len(filled) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(source))

    monkeypatch.setattr(shutil, "copyfileobj", fills)
    with pytest.raises(OSError, match=f"No space left on device: '{out}'"):
        export(ExportConfig(str(trained[0]), str(out)))
    assert len(filled) == 2 and {path.name: path.read_bytes() for path in out.iterdir()} == before
