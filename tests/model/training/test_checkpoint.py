"""Checkpoints: restoring is bit-identical, changed settings are named, and a failed save leaves nothing."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from paths import ROOT
from tiny_training import save, step, tiny_config, tiny_state

from configs.errors import CommandFailed
from model.hub import from_pretrained
from model.training import checkpoint
from model.training.checkpoint import restore
from model.training.checkpoint_folder import find_corruption
from model.training.resume import read_state
from model.weights_file import save_tensors

EVERYTHING = ["optim.ema_decay=0.9", "optim.adaptive_clip_factor=1.1", "optim.lr=0.01", "optim.warmup_steps=0"]


def test_restored_run_makes_the_same_next_steps(tmp_path):
    config = tiny_config(*EVERYTHING)
    state = tiny_state(config)
    for number in range(15):
        step(state, number)
    folder = save(tmp_path, 15, state, config, {"seed": 1})

    other = tiny_state(config, seed=1)
    assert read_state(folder, config, {"seed": 1})["step"] == 15
    restore(folder, other, same_phase=True)
    for number in range(15, 20):
        step(state, number)
        step(other, number)
    for (name, a), b in zip(state.model.state_dict().items(), other.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert all(
        torch.equal(a, b) for a, b in zip(state.clipping.state().values(), other.clipping.state().values(), strict=True)
    )
    means = [s.ema.weights(s.model) for s in (state, other)]
    assert all(torch.equal(means[0][name], means[1][name]) for name in means[0])


def test_new_phase_starts_without_moments_and_norms(tmp_path):
    config = tiny_config(*EVERYTHING)
    state = tiny_state(config)
    for number in range(3):
        step(state, number)
    other = tiny_state(config, seed=1)
    restore(save(tmp_path, 3, state, config), other, same_phase=False)
    assert not other.optimizer.state and not other.clipping.counts.any()
    means = [s.ema.weights(s.model) for s in (state, other)]
    assert all(torch.equal(means[0][name], means[1][name]) for name in means[0])


def test_loss_scaler_is_restored(tmp_path):
    config = tiny_config()
    state = tiny_state(config, scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    parameter = next(p for p in state.model.parameters() if p.requires_grad)
    state.scaler.scale(parameter.sum() * float("inf")).backward()
    state.scaler.step(torch.optim.SGD([parameter], 0.1))
    state.scaler.update()
    other = tiny_state(config, scaler=torch.amp.GradScaler("cpu"))
    restore(save(tmp_path, 1, state, config), other, same_phase=True)
    assert other.scaler.get_scale() == 512.0


def test_snapshot_does_not_change_with_the_model(tmp_path):
    config = tiny_config(*EVERYTHING)
    state = tiny_state(config)
    snap = checkpoint.snapshot(0, "full", state, config, {})
    for number in range(12):
        step(state, number)
    before = tiny_state(config)
    again = tiny_state(config, seed=1)
    restore(checkpoint.write(tmp_path, snap), again, same_phase=True)
    assert all(
        torch.equal(a, b)
        for a, b in zip(before.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    )
    assert not again.clipping.counts.any()


def test_nan_weights_are_not_saved(tmp_path):
    state = tiny_state(tiny_config())
    with torch.no_grad():
        dict(state.model.named_parameters())["log_scale"].fill_(float("nan"))
    with pytest.raises(CommandFailed, match="step 7: 1 weights are NaN or infinite, first log_scale"):
        save(tmp_path, 7, state, tiny_config())
    assert not list(tmp_path.iterdir())


def test_from_pretrained_prefers_averaged_weights(tmp_path):
    config = tiny_config(*EVERYTHING)
    state = tiny_state(config)
    for number in range(3):
        step(state, number)
    loaded = from_pretrained(save(tmp_path, 3, state, config)).state_dict()
    mean = state.ema.weights(state.model)
    assert all(torch.equal(value, mean[name]) for name, value in loaded.items())
    assert any(not torch.equal(value, loaded[name]) for name, value in state.model.state_dict().items())


def test_resuming_with_other_settings_or_data_names_the_changes(tmp_path):
    config = tiny_config()
    folder = save(tmp_path, 2, tiny_state(config), config, {"windows": 5})
    with pytest.raises(ValueError, match=r"optim\.lr: 5e-05 -> 1\.0.*name="):
        read_state(folder, tiny_config("optim.lr=1"), {"windows": 5})
    with pytest.raises(ValueError, match=r"gradient_accumulation_steps: 1 -> 2.*optim\.groups"):
        read_state(
            folder, tiny_config("gradient_accumulation_steps=2", "optim.groups=[{prefix: log_scale}]"), {"windows": 5}
        )
    with pytest.raises(ValueError, match=r"windows: 5 -> 6"):
        read_state(folder, config, {"windows": 6})
    stream = {"sources": {"mine": {"data_set": "a"}}}
    extended = save(tmp_path / "b", 2, tiny_state(config), config, stream)
    with pytest.raises(
        ValueError, match=r"mine\.data_set: a -> b.*name= and init_checkpoint=.*extended or built again"
    ):
        read_state(extended, config, {"sources": {"mine": {"data_set": "b"}}})
    resumable = [
        "steps=99",
        "checkpoint.keep_last=1",
        "distributed_timeout_s=5",
        "time_limit_min=5",
        "compile=true",
        "grad_cache_chunk_size=4",
        "stream.num_workers=7",
    ]
    assert read_state(folder, tiny_config(*resumable), {"windows": 5})["step"] == 2


def test_checkpoint_with_unknown_settings_names_another_version(tmp_path):
    config = tiny_config()
    folder = save(tmp_path, 2, tiny_state(config), config)
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"config": state["config"].replace("embed_dim", "channels")}))
    with pytest.raises(ValueError, match=r"before the settings were renamed \(first unknown key: model\.channels\)"):
        read_state(folder, config, {})


@pytest.mark.parametrize(("schedule", "is_resumable"), [("constant", True), ("restarts", True), ("cosine", False)])
def test_data_sets_may_move_and_only_cosine_runs_keep_their_length(tmp_path, schedule, is_resumable):
    sources = "stream.sources=[{name: a, shards: X}]"
    config = tiny_config(sources, f"optim.schedule={schedule}")
    folder = save(tmp_path, 2, tiny_state(config), config)
    assert read_state(folder, tiny_config(sources.replace("X", "Y"), f"optim.schedule={schedule}"), {})["step"] == 2
    longer = tiny_config(sources, f"optim.schedule={schedule}", "steps=99")
    if is_resumable:
        assert read_state(folder, longer, {})["step"] == 2
    else:
        with pytest.raises(ValueError, match="steps: 1000001 -> 99"):
            read_state(folder, longer, {})


def test_a_cosine_run_is_prolonged_knowingly(tmp_path):
    config = tiny_config("optim.schedule=cosine", "steps=10")
    folder = save(tmp_path, 2, tiny_state(config), config)
    changes = ["optim.schedule=cosine", "steps=20", "optim.lr=1"]
    with pytest.raises(
        ValueError, match=r"steps: 10 -> 20\): restore them, allow them with allow_changes=\[steps\], or"
    ):
        read_state(folder, tiny_config(*changes[:2]), {})
    with pytest.raises(ValueError, match=r"allow_changes=\[optim,steps\], or"):
        read_state(folder, tiny_config(*changes), {})
    with pytest.raises(ValueError, match=r"\(optim\.lr: 5e-05 -> 1\.0\): restore"):
        read_state(folder, tiny_config(*changes, "allow_changes=steps"), {})
    assert read_state(folder, tiny_config(*changes, "allow_changes=[steps,optim]"), {})["step"] == 2
    with pytest.raises(ValueError, match=r"restore them, or give"):
        read_state(folder, tiny_config(*changes, "model.embed_dim=64"), {})


def test_checkpoint_that_this_machine_does_not_see_is_an_error(tmp_path):
    with pytest.raises(
        ValueError,
        match="step_00000001 is not on this machine: out=runs must be a folder that all machines of the run share",
    ):
        read_state(tmp_path / "step_00000001", tiny_config(), {})


def test_a_checkpoint_written_before_the_settings_were_renamed_is_rejected_in_one_line(tmp_path):
    config = tiny_config()
    folder = save(tmp_path, 2, tiny_state(config), config)
    for file, new, old, key in (
        ("state.json", "global_batch_size:", "batch_size:", "batch_size"),
        ("config.json", '"num_heads"', '"heads"', "heads"),
    ):
        text = (folder / file).read_text()
        assert new in text
        (folder / file).write_text(text.replace(new, old))
        (folder / "manifest.json").unlink(missing_ok=True)
        with pytest.raises(ValueError, match=rf"renamed \(first unknown key: {key}\): .* commit 41bd2f4$") as error:
            read_state(folder, config, {}) if file == "state.json" else from_pretrained(folder)
        assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_checkpoint_of_another_model_is_an_error(tmp_path):
    config = tiny_config()
    folder = save(tmp_path, 2, tiny_state(config), config)
    with pytest.raises(ValueError, match="does not fit the model"):
        restore(folder, tiny_state(tiny_config("model.embed_dim=32")), same_phase=False)


def test_failed_save_leaves_no_partial_checkpoint_and_the_old_one_intact(tmp_path):
    config = tiny_config()
    state = tiny_state(config)
    good = save(tmp_path, 2, state, config)
    with pytest.raises(TypeError):
        save(tmp_path, 3, state, config, {"not json": object()})
    assert [p.name for p in tmp_path.iterdir()] == [good.name]
    assert find_corruption(good) is None


FILL_THE_DISK = """
import resource, signal, sys
sys.path[:0] = [{root!r}, {root!r} + "/tests/support"]
from pathlib import Path
from tiny_training import save, tiny_config, tiny_state
config = tiny_config()
state = tiny_state(config)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    save(Path(sys.argv[1]), 3, state, config)
except OSError as error:
    print(type(error).__name__, error.errno)
"""


def test_disk_full_in_the_middle_of_a_file_leaves_no_checkpoint(tmp_path):
    code = FILL_THE_DISK.format(root=str(ROOT))
    # -B: under the limit on the size of a file, Python would leave cut .pyc files for every later run.
    command = [sys.executable, "-B", "-c", code, tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["OSError", "27"], done.stderr
    assert not list(tmp_path.iterdir())
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_disk_error_while_writing_weights_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        save_tensors({"a": torch.zeros(3)}, tmp_path / "no such folder" / "a.safetensors")


def test_every_checkpoint_file_is_hashed_and_nothing_is_pickled(tmp_path):
    config = tiny_config(*EVERYTHING)
    folder = save(tmp_path, 1, tiny_state(config), config, metrics={"a/b/c": 0.5})
    names = {path.name for path in folder.iterdir()}
    assert json.loads((folder / "manifest.json").read_text()).keys() == names - {"manifest.json"}
    assert {Path(name).suffix for name in names} == {".json", ".safetensors"}
    assert json.loads((folder / "state.json").read_text())["metrics"] == {"a/b/c": 0.5}
