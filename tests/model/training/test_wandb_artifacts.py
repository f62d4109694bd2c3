"""Artifacts of data sets and checkpoints: which files and hashes they hold. No W&B service is started."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import save, step, tiny_config, tiny_state

from configs.errors import UsageError
from configs.validate import validate_train_config
from model.hub import from_pretrained
from model.training.checkpoint_folder import update_best_link
from model.training.wandb_artifacts import log_checkpoint, log_data_sets


class Run:
    """Collects what is logged, as wandb.Run.log_artifact takes it."""

    def __init__(self):
        self.logged = []

    def log_artifact(self, artifact, aliases=()):
        self.logged.append((artifact, list(aliases)))


@pytest.fixture
def wandb_run(monkeypatch, tmp_path):
    """Copies of the files go to the test's folder."""
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))
    return Run()


def _files(artifact) -> dict[str, bytes]:
    return {path: Path(entry.local_path).read_bytes() for path, entry in artifact.manifest.entries.items()}


def test_data_sets_are_logged_by_fingerprint_and_manifest_without_shards(wandb_run, tmp_path):
    (tmp_path / "local").mkdir()
    (tmp_path / "local/manifest.json").write_text('{"shards": [{"sha256": "00"}]}')
    (tmp_path / "local/train-000000.tar").write_bytes(b"clips")
    config = tiny_config(
        f"stream.sources=[{{name: 'a b/c', shards: {tmp_path}/local}}, {{name: remote, shards: 's3://bucket/train'}}]"
    )
    fingerprint = {"sources": {"a b/c": {"data_set": "f1"}, "remote": {"data_set": "f2"}}}
    log_data_sets(wandb_run, config.stream.sources, fingerprint)
    (local, _), (remote, _) = wandb_run.logged
    assert (local.name, local.type, remote.name) == ("a_b_c", "dataset", "remote")
    assert local.metadata == {"fingerprint": "f1", "shards": [f"{tmp_path}/local"]}
    assert _files(local) == {
        "fingerprint.json": b'{"fingerprint": "f1"}',
        "manifest.json": b'{"shards": [{"sha256": "00"}]}',
    }
    assert remote.metadata == {"fingerprint": "f2", "shards": ["s3://bucket/train"]}
    assert _files(remote) == {"fingerprint.json": b'{"fingerprint": "f2"}'}


def test_other_clips_of_the_same_manifest_are_another_version(wandb_run, tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    sources = tiny_config(f"stream.sources=[{{name: a, shards: {tmp_path}}}]").stream.sources
    for fingerprint in ("all", "labels=[dog]", "all"):
        log_data_sets(wandb_run, sources, {"sources": {"a": {"data_set": fingerprint}}})
    every, some, again = (artifact.digest for artifact, _ in wandb_run.logged)
    assert every == again != some


@pytest.mark.parametrize(("upload", "number"), [("none", 4), ("last", 4), ("best", 2)])
def test_checkpoint_is_logged_with_its_hashes_and_its_model_on_request(wandb_run, tmp_path, upload, number):
    best = ["checkpoint.best_metric=a/b/c", "evaluate.config=x"] if upload == "best" else []
    config = tiny_config("steps=4", "optim.ema_decay=0.5", "name=mine", f"checkpoint.upload={upload}", *best)
    state, root = tiny_state(config), tmp_path / "checkpoints"
    for index, value in ((2, 0.9), (4, 0.3)):
        step(state, index)
        folder = save(root, index, state, config, {"seed": 0}, {"a/b/c": value})
        if best:
            update_best_link(root, folder, "a/b/c")
    log_checkpoint(wandb_run, config, root)
    ((artifact, aliases),) = wandb_run.logged
    checkpoint = root / f"step_{number:08d}"
    assert (artifact.name, artifact.type, aliases) == ("mine", "model", ["latest", f"step_{number}"])
    assert artifact.metadata["step"] == number and artifact.metadata["stream"] == {"seed": 0}
    assert artifact.metadata["metrics"] == {"a/b/c": 0.9 if number == 2 else 0.3}
    assert artifact.metadata["sha256"] == json.loads((checkpoint / "manifest.json").read_text())
    files = _files(artifact)
    if upload == "none":
        assert set(files) == {"checkpoint_manifest.json"}
        return
    assert set(files) == {"checkpoint_manifest.json", "config.json", "model.safetensors"}
    digest = hashlib.sha256(files["model.safetensors"]).hexdigest()
    assert digest == artifact.metadata["sha256"]["ema.safetensors"]

    (tmp_path / "downloaded").mkdir()
    for name, content in files.items():
        (tmp_path / "downloaded" / name).write_bytes(content)
    averaged, model = load_file(checkpoint / "ema.safetensors"), from_pretrained(tmp_path / "downloaded")
    assert all(torch.equal(value.cpu(), averaged[name]) for name, value in model.state_dict().items())


def test_run_without_its_last_checkpoint_logs_none(wandb_run, tmp_path):
    config = tiny_config("steps=4")
    folder = save(tmp_path, 2, tiny_state(config), config)
    log_checkpoint(wandb_run, config, tmp_path)
    shutil.rmtree(folder)
    log_checkpoint(wandb_run, config, tmp_path)
    assert not wandb_run.logged


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["checkpoint.upload=last"], "checkpoint.upload=last needs tracker=wandb, not tracker=none"),
        (["checkpoint.upload=best", "tracker=wandb"], "checkpoint.upload=best needs checkpoint.best_metric="),
    ],
)
def test_upload_that_would_have_no_effect_is_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        validate_train_config(tiny_config(*arguments))
