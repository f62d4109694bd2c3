"""Training on a data set to which clips were added: an old checkpoint says why it is not resumed, its weights go on."""

import os

import pytest
from tiny_builds import build
from tiny_media import write_video
from tiny_runs import SETTINGS, run


@pytest.mark.slow
def test_run_on_an_extended_data_set_starts_from_the_weights_of_the_old_run(tmp_path):
    root, shards = tmp_path / "root", tmp_path / "shards"
    video = write_video(root / "v00.mp4", duration_s=1.0, events_s=(0.3,))
    for number in range(1, 16):
        os.link(video, root / f"v{number:02d}.mp4")
    assert build(root, shards).returncode == 0
    settings = [*SETTINGS, f"stream.sources=[{{name: mine, shards: {shards}}}]", "global_batch_size=4"]
    assert run(settings, tmp_path / "runs", "steps=4").returncode == 0
    for number in range(16, 24):
        os.link(video, root / f"v{number:02d}.mp4")
    done = build(root, shards, "append=true")
    assert done.returncode == 0 and "written           24   in 6 shards" in done.stdout, done.stderr
    refused = run(settings, tmp_path / "runs", "steps=6")
    assert refused.returncode == 2 and len(refused.stderr.strip().splitlines()) == 1
    assert "sources.mine.data_set: " in refused.stderr and "the data set was extended or built again" in refused.stderr
    old = tmp_path / "runs/a/checkpoints/step_00000004"
    assert f"name= and init_checkpoint={old}" in refused.stderr
    done = run(settings, tmp_path / "runs", "steps=6", "name=b", f"init_checkpoint={old}")
    assert done.returncode == 0 and "trained 6 steps" in done.stdout, done.stderr
