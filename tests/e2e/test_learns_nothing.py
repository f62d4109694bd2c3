"""A run whose images and sounds do not belong together says that it has learned nothing, and so does its report."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from paths import ROOT
from tiny_runs import SETTINGS, run
from tiny_shards import encode_audio, jpeg, tone, write_data_set


def _shuffled_pairs(folder, clips, seed):
    """Shards of clips, each with the sound of another one."""
    other = np.random.default_rng(seed).permutation(clips)
    changes = {
        clip: {"flac": encode_audio(tone(int(other[clip]), 0.8)), "0.jpg": jpeg(int(clip * 37 % 256))}
        for clip in range(clips)
    }
    return write_data_set(folder, [clips // 8] * 8, changes, frames=1, duration_s=0.8)


@pytest.mark.slow
def test_a_run_on_shuffled_pairs_says_that_it_has_learned_nothing(tmp_path):
    data, held_out = (
        _shuffled_pairs(tmp_path / name, clips, seed)
        for seed, (name, clips) in enumerate((("train", 640), ("test", 64)))
    )
    settings = [
        *SETTINGS,
        f"stream.sources.shuffled.shards={data}",
        "steps=120",
        "frozen_encoder_steps=0",
        "loss.disentangle=0",
    ]
    settings += ["global_batch_size=16", "log_every_steps=5", "checkpoint.every_steps=120", "stream.sources=[]"]
    done = run(sorted(settings, key=lambda text: text.startswith("stream.sources.")), tmp_path / "out")
    assert done.returncode == 0, done.stderr
    (warning,) = (line for line in done.stderr.splitlines() if "not matched better than by chance" in line)
    for part in ("in-batch accuracy", "(chance 6.2%)", "(ln 16 = 2.77)", "of pairs", "of others", "see docs/faq.md"):
        assert part in warning
    assert "accuracy" in done.stderr.split("120/120")[-1], "the progress bar shows it too"
    arguments = [f"checkpoint={tmp_path}/out/a", f"out={tmp_path}/report", "benchmarks=[held_out]", "gallery_size=64"]
    arguments += ["data.held_out.kind=retrieval", f"data.held_out.root={held_out}"]
    command = [sys.executable, "-m", "eval.run", *arguments]
    evaluated = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, env=os.environ)
    assert evaluated.returncode == 0, evaluated.stderr
    metrics = json.loads((tmp_path / "report/metrics.json").read_text())
    assert metrics["metrics"]["held_out/audio_to_image/recall_at_10"] < 0.4
    for name in ("report.html", "report.md"):
        assert "no better than its baselines" in (tmp_path / "report" / name).read_text()
