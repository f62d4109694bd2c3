"""Settings that build.json holds and the build hash depends on, and which earlier data sets remain resumable."""

import json

import pytest

from configs.errors import UsageError
from configs.load import load
from configs.schema import BuildConfig
from pipelines.build.build_spec import BuildSpec, prepare
from pipelines.build.row_table import write_rows
from pipelines.manifest import Clip
from pipelines.storage import LocalFolder


def _prepared(tmp_path, *settings: str) -> tuple[BuildSpec, dict]:
    """The spec of a data set of one row, and the decode settings in its build.json."""
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    table = write_rows([Clip("a", "a.mp4")], tmp_path / "rows.jsonl", seed=0, rows_per_shard=3)
    config = load(BuildConfig, [f"source.root={tmp_path}", f"out={out}", *settings])
    spec = prepare(config, table, LocalFolder(out))
    return spec, json.loads((out / "build.json").read_text())["settings"]["decode"]


def test_a_data_set_with_waveforms_has_the_build_hash_of_versions_without_decode_audio(tmp_path):
    spec, decode = _prepared(tmp_path)
    assert not {"audio", "mel_frames"} & decode.keys() and decode["log_mel"] is False
    assert _prepared(tmp_path)[0].build_hash == spec.build_hash


@pytest.mark.parametrize("setting", ["decode.log_mel=true", "decode.audio=log_mel"])
def test_a_data_set_with_log_mel_is_not_resumed_where_an_earlier_version_began_it(tmp_path, setting):
    _, decode = _prepared(tmp_path, setting)
    assert decode["mel_frames"] == "padded"
    begun = json.loads((tmp_path / "out/build.json").read_text())
    del begun["settings"]["decode"]["mel_frames"]
    (tmp_path / "out/build.json").write_text(json.dumps(begun))
    with pytest.raises(UsageError, match=r"with other settings \(decode\.mel_frames: .*padded"):
        _prepared(tmp_path, setting)
