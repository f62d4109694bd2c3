"""The feature cache of a gallery: its key, damaged files, and folders that cannot be written."""

import pytest
import torch
from tiny_gallery import recorded_calls
from tiny_shards import jpeg, write_data_set
from tiny_training import tiny_config, tiny_model

from configs.errors import UsageError
from eval.benchmarks.retrieval.benchmark import Retrieval
from eval.benchmarks.retrieval.feature_cache import FeatureCache
from eval.benchmarks.retrieval.gallery import Gallery


def _evaluate_cached(folder, shards, model, size=11, seed=0, batch_size=4):
    """The results of retrieval, and the number of encoded batches."""
    with recorded_calls(model, "encode_image", len) as calls:
        found = Retrieval("r", Gallery(str(shards), size, batch_size, seed, FeatureCache(str(folder)))).evaluate(model)
    return _figures(found), len(calls)


def _figures(measured):
    return measured.metrics, measured.items, measured.intervals


def test_second_run_uses_the_feature_cache(shards, model, tmp_path):
    first, asked = _evaluate_cached(tmp_path / "a/cache", shards, model)
    assert (
        asked == 4 and len(list((tmp_path / "a/cache").iterdir())) == 1
    )  # 11 items and the one in place of the unreadable clip
    assert _evaluate_cached(tmp_path / "a/cache", shards, model) == (first, 0)
    assert (
        _figures(Retrieval("r", Gallery(str(shards), 11, 4, 0)).evaluate(model)) == first
        and first[1]["left_out_bad_audio"] == 1
    )


def test_feature_cache_depends_on_weights_data_and_settings(shards, model, tmp_path):
    other_data = write_data_set(tmp_path / "other", [12], duration_s=0.8, frames=1, changes={0: {"0.jpg": jpeg(7)}})
    assert _evaluate_cached(tmp_path / "kept", shards, model)[1] == 4
    other = tiny_model(tiny_config("model.num_heads=2")).eval()
    other.load_state_dict(model.state_dict())
    assert _evaluate_cached(tmp_path / "kept", shards, other)[1] == 0  # the same weights in another object
    with torch.no_grad():
        next(other.audio_projection.parameters())[0] += 1e-6
    assert _evaluate_cached(tmp_path / "kept", shards, other)[1] > 0
    assert _evaluate_cached(tmp_path / "kept", other_data, model)[1] > 0
    assert (
        _evaluate_cached(tmp_path / "kept", shards, model, size=10)[1] > 0
        and _evaluate_cached(tmp_path / "kept", shards, model, seed=1)[1] > 0
    )
    assert len(list((tmp_path / "kept").iterdir())) == 5


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b[:-4] + b"\1\2\3\4", lambda b: b[:2], lambda b: b * 2]
)
def test_damaged_cache_file_is_encoded_again_with_a_warning(shards, model, tmp_path, damage, capsys):
    first, _ = _evaluate_cached(tmp_path, shards, model)
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(damage(file.read_bytes()))
    assert _evaluate_cached(tmp_path, shards, model) == (first, 4)
    assert f"warning: {file}" in capsys.readouterr().err
    assert _evaluate_cached(tmp_path, shards, model) == (first, 0)
    assert "warning" not in capsys.readouterr().err  # on a slow machine there is a progress bar


def test_unwritable_cache_folder_raises_or_warns(shards, model, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"feature_cache_dir=.*/file/kept: Not a directory"):
        FeatureCache(str(tmp_path / "file/kept"))
    kept = FeatureCache(str(tmp_path / "kept"))
    kept.folder.rmdir()
    assert Retrieval("r", Gallery(str(shards), 11, 4, 0, kept)).evaluate(model).items["items"] == 11
    assert "warning: features are not cached in" in capsys.readouterr().err
