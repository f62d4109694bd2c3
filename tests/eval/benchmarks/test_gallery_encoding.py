"""Encoding of a retrieval gallery: unreadable clips are replaced, features are released with their model."""

import gc

import pytest
import torch
from tiny_evaluation import write_evaluation
from tiny_shards import write_data_set
from tiny_training import tiny_config, tiny_model

from configs.errors import UsageError
from eval.benchmarks.retrieval.gallery import Gallery
from pipelines.stream.batch import collate
from pipelines.stream.reader import ClipReader


def test_features_are_released_with_their_model_and_unreadable_clips_replaced(tmp_path):
    folder = write_evaluation(tmp_path).parent / "audioset"
    gallery = Gallery(str(folder), 11, 4, 0)
    model = tiny_model(tiny_config()).eval()
    features = gallery.encode(model)
    assert (
        gallery.encode(model) is features
        and len(features.audio.mask) == len(gallery.clips) == 11
        and gallery.left_out == {"bad_audio": 1}
    )
    one_by_one = [model.encode_image(_frame(gallery, model, clip)).dense[0] for clip in gallery.clips]
    assert torch.allclose(torch.stack(one_by_one), features.image.dense, atol=1e-5)
    del model
    gc.collect()
    assert not gallery._encoded


def _frame(gallery, model, clip):
    return collate([gallery.item(ClipReader(gallery.index, *model.inputs), clip)]).to("cpu").frames


def test_split_without_a_readable_clip_is_refused(tmp_path):
    write_data_set(tmp_path / "bad", [2], changes={n: {"flac": b"nothing" * 9} for n in range(2)})
    with pytest.raises(UsageError, match=r"bad: none of its clips can be read \(2 bad_audio\)"):
        Gallery(str(tmp_path / "bad"), 5, 4, 0).encode(tiny_model(tiny_config()))
