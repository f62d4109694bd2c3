"""The warning at the start of a run whose clips are far shorter than the model's input."""

import pytest
from tiny_mel_shards import write_mel_shards
from tiny_shards import write_data_set
from tiny_stream import stream_config

from pipelines.stream.loader import open_stream


@pytest.mark.parametrize(("clip_duration_s", "warned"), [(0.5, False), (0.9, False), (1.2, True), (3.0, True)])
def test_clips_below_half_of_the_input_are_named(clip_duration_s, warned, tmp_path):
    folder = write_data_set(tmp_path / "a", [6, 6], changes={0: {"flac": b"unreadable"}})  # of 0.5 s
    warnings = open_stream(stream_config({"mine": folder}, clip_duration_s=clip_duration_s), 0, 4).warnings()
    assert len(warnings) == warned
    if warned:
        start = f"stream.clip_duration_s={clip_duration_s:g}, but the audio of mine lasts 0.5 s (median of 11 clips): "
        assert warnings[0].startswith(start), warnings[0]


def test_log_mel_is_measured_in_its_own_steps(tmp_path):
    shards = write_mel_shards(tmp_path / "set", [6], with_waveform=False)
    config = stream_config({"mine": shards}, clip_duration_s=30.0, audio="log_mel")
    (warning,) = open_stream(config, 0, 4).warnings()
    assert warning.startswith("stream.clip_duration_s=30, but the audio of mine lasts 1.9 s (median of 6 clips): 94% ")
