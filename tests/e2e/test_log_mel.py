"""Data sets with log-mel and no waveform: built from real media, trained on and evaluated by the commands."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT
from tiny_media import write_video
from tiny_mel_shards import write_mel_shards

MODEL = [
    "model.audio_encoder=mel:vit_tiny_patch16_224", "model.audio_weights=random", "model.embed_dim=16",
    "model.num_heads=2", "model.audio_projection=linear", "model.image_pool_size=1",
]  # fmt: skip
STREAM = [
    "stream.image_size_px=32", "stream.clip_duration_s=1.28", "stream.num_workers=1",
    "stream.augment.audio_splice_min_s=0.1", "stream.augment.audio_splice_max_s=0.4",
    "stream.augment.time_mask_min_s=0.3",
]  # fmt: skip
RUN = ["steps=3", "frozen_encoder_steps=1", "global_batch_size=4", "tracker=none", "log_every_steps=1", "name=a"]


def _run(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("media")
    for number in range(12):
        rng = np.random.default_rng(number)
        write_video(root / f"v{number:02d}.mp4", 1.5, waveform=rng.normal(0, 0.1, (1, 24_000)).astype(np.float32))
    out = root.parent / "shards"
    decode = ["decode.audio=log_mel", "decode.short_side_px=32", "decode.frames_per_clip=2", "clips_per_shard=6"]
    done = _run("-m", "pipelines.build", f"source.root={root}", f"out={out}", *decode)
    assert done.returncode == 0, done.stderr
    return out


def test_shards_hold_log_mel_and_no_waveform_and_verify(shards):
    (first, *_) = json.loads((shards / "train-000000.json").read_text())["members"]
    assert list(first["files"]) == ["json", "0.jpg", "1.jpg", "mel.npy"]
    offset, size = first["files"]["mel.npy"]
    mel = np.load(io.BytesIO((shards / "train-000000.tar").read_bytes()[offset : offset + size]))
    assert mel.dtype == np.float16 and abs(len(mel) - 150) <= 3 and mel.shape[1] == 128
    assert _run("-m", "pipelines.verify", shards).returncode == 0
    assert _run("-m", "pipelines.inspect", shards).returncode == 0


@pytest.mark.slow
def test_a_model_on_log_mel_is_trained_and_evaluated_without_waveforms(shards, tmp_path):
    sources = f"stream.sources=[{{name: a, shards: {shards}}}]"
    words = [*MODEL, *STREAM, *RUN, sources, f"out={tmp_path}/runs"]
    refused = _run("train.py", *words)
    assert refused.returncode == 2 and "stores log-mel and no waveforms" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    done = _run("train.py", *words, "stream.audio=log_mel")
    assert done.returncode == 0, done.stderr
    history = [json.loads(line) for line in (tmp_path / "runs/a/history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in history] == [1, 2, 3] and all(line["loss/total"] > 0 for line in history)

    evaluation = ["benchmarks=[own]", f"data.own.root={shards}", "data.own.kind=retrieval", "gallery_size=8"]
    evaluation += [f"checkpoint={tmp_path}/runs/a", f"out={tmp_path}/eval"]
    refused = _run("-m", "eval.run", *evaluation)
    assert refused.returncode == 2 and "stores log-mel and no waveforms" in refused.stderr
    done = _run("-m", "eval.run", *evaluation, "audio=log_mel")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "eval/metrics.json").read_text())
    assert 0 <= metrics["metrics"]["own/audio_to_image/recall_at_1"] <= 1
    assert "<audio" not in (tmp_path / "eval/report.html").read_text()


@pytest.mark.slow
def test_losses_of_a_run_on_log_mel_agree_with_those_of_a_run_that_computes_it(tmp_path):
    folder = write_mel_shards(tmp_path / "set", [8, 7], duration_s=1.2)
    sources = f"stream.sources=[{{name: a, shards: {folder}}}]"
    silent = ["stream.augment.audio_splice_max_s=0", "stream.augment.time_mask_probability=0"]
    runs = {}
    for audio in ("waveform", "log_mel"):
        out = tmp_path / audio
        words = [*MODEL, *RUN, *STREAM[:3], *silent, sources, f"out={out}", f"stream.audio={audio}"]
        done = _run("train.py", *words)
        assert done.returncode == 0, done.stderr
        history = [json.loads(line) for line in (out / "a/history.jsonl").read_text().splitlines()]
        runs[audio] = [line["loss/total"] for line in history]
    assert np.allclose(runs["log_mel"], runs["waveform"], atol=1e-2, rtol=0)
    assert runs["log_mel"] != runs["waveform"]


def test_a_model_on_waveforms_refuses_log_mel_in_one_line(shards, tmp_path):
    sources = f"stream.sources=[{{name: a, shards: {shards}}}]"
    done = _run("train.py", *STREAM, *RUN, sources, f"out={tmp_path}", "stream.audio=log_mel")
    assert done.returncode == 2
    assert "stream.audio=log_mel needs an audio encoder on log-mel, model.audio_encoder=mel:NAME" in done.stderr
