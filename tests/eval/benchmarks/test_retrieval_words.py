"""The advanced variants of retrieval: only audio steps within 0.2 s of a word count, on data sets that store words."""

import io
import json

import pytest
import torch
from oracle_encoders import Colors, Identity, Pitches
from tiny_shards import encode_audio, write_data_set
from tiny_words import DURATION_S, RATE_HZ, SIZE_PX, WORDS, caption_audio, color_image

from configs.schema import DataConfig, EvalConfig
from eval.baselines import Baselines
from eval.benchmarks.registry import build_benchmarks
from eval.benchmarks.retrieval.benchmark import Retrieval
from eval.benchmarks.retrieval.gallery import Gallery
from eval.benchmarks.retrieval.word_steps import word_steps
from eval.report.content import sections
from eval.report.html import render_html
from eval.report.markdown import render_markdown
from eval.results import Results
from eval.run import evaluate, measure_untrained
from model.denseav import DenseAV, InputSpec, SimilarityConfig

STEPS = 40  # of 50 ms, in 2 s


def _model(duration_s: float = DURATION_S, aggregation: str = "misa") -> DenseAV:
    inputs = InputSpec(SIZE_PX, duration_s, RATE_HZ)
    similarity = SimilarityConfig(aggregation=aggregation)
    return DenseAV(Colors(), Pitches(), Identity(), Identity(), 1, 1, inputs, similarity).eval()


def _write(folder, words: dict[int, object], start_s: float = 0.0, lead_s: float = 0.0):
    """Three captions; `words` is what KEY.json of a clip stores as such."""
    changes = {}
    for color in range(3):
        color_image(color).save(jpeg := io.BytesIO(), "JPEG", quality=95)
        metadata = {"start_s": start_s, "end_s": start_s + lead_s + DURATION_S, "sample_rate_hz": RATE_HZ}
        metadata |= {"words": words[color]} if color in words else {}
        audio = encode_audio(caption_audio(color, lead_s))
        changes[color] = {"json": json.dumps(metadata).encode(), "0.jpg": jpeg.getvalue(), "flac": audio}
    return write_data_set(folder, [3], changes=changes, frames=1)


def _gallery(folder) -> Gallery:
    return Gallery(str(folder), 3, 2, 0)


def _shifted(seconds: float) -> dict[int, object]:
    return {
        color: [word | {"start_s": word["start_s"] + seconds, "end_s": word["end_s"] + seconds} for word in words]
        for color, words in enumerate(WORDS.values())
    }


def test_advanced_recall_counts_the_word_alone_in_shards_of_the_build_pipeline(spoken):
    measured = Retrieval("places_retrieval", _gallery(spoken)).evaluate(_model())
    ways = ("audio_to_image", "image_to_audio")
    keys = {f"{way}{variant}/recall_at_{k}" for way in ways for variant in ("", "_advanced") for k in (1, 5, 10)}
    assert measured.metrics.keys() == measured.chance.keys() == measured.intervals.keys() == keys
    for way in ways:
        assert measured.metrics[f"{way}/recall_at_1"] == 0
        assert measured.metrics[f"{way}_advanced/recall_at_1"] == 1
        assert measured.chance[f"{way}_advanced/recall_at_1"] == pytest.approx(1 / 3)
    assert measured.items == {"items": 3, "duplicates": 0, "clips_without_words": 0}


def test_steps_are_those_of_the_clip_where_it_starts_inside_its_media(tmp_path):
    """The clip starts 30 s into its media, and its caption 0.5 s into the clip."""
    model = _model(DURATION_S + 1)
    gallery = _gallery(_write(tmp_path / "a", _shifted(30.5), start_s=30, lead_s=0.5))
    mask = gallery.encode(model).audio.mask
    found = word_steps(gallery, model, mask)
    assert mask.shape == (3, 60)
    assert (mask.sum(dim=1) == 50).all()
    for row in found.mask:  # the words 1.9 to 2.3 s and 2.4 to 3.1 s, of 2.5 s of audio
        assert row.nonzero()[:, 0].tolist() == list(range(34, 50))
    assert (found.clips_with_words, found.clips_with_invalid_words) == (3, 0)


def test_silence_between_words_is_ignored_and_a_clip_without_words_keeps_its_steps(tmp_path):
    two = [{"word": "a", "start_s": 0.0, "end_s": 0.1}, {"word": "b", "start_s": 1.5, "end_s": 1.6}]
    model, gallery = _model(), _gallery(_write(tmp_path / "a", {0: two, 1: []}))
    found = word_steps(gallery, model, gallery.encode(model).audio.mask)
    rows = {gallery.index.id(clip): row for clip, row in zip(gallery.clips, found.mask, strict=True)}
    assert rows["clip0000"].nonzero()[:, 0].tolist() == [*range(6), *range(26, 36)]
    assert rows["clip0001"].all()
    assert rows["clip0002"].all()
    measured = Retrieval("x", gallery).evaluate(model)
    assert measured.items["clips_without_words"] == 2


@pytest.mark.parametrize(
    ("words", "invalid"),
    [
        ({}, 0),
        ({0: [{"word": "late", "start_s": 7.0, "end_s": 8.0}]}, 0),
        ({0: "red", 1: [{"word": "red"}], 2: [{"word": "red", "start_s": 1, "end_s": 0.5}]}, 3),
    ],
)
def test_a_data_set_without_usable_words_has_no_advanced_variant(tmp_path, words, invalid):
    measured = Retrieval("x", _gallery(_write(tmp_path / "a", words))).evaluate(_model())
    assert not any("advanced" in key for key in measured.metrics)
    assert measured.items.get("clips_with_invalid_words", 0) == invalid
    assert "clips_without_words" not in measured.items


def test_third_party_shards_without_json_have_no_words(tmp_path):
    folder = write_data_set(tmp_path / "a", [3], changes={clip: {"json": None} for clip in range(3)}, duration_s=2.0)
    measured = Retrieval("x", _gallery(folder)).evaluate(_model())
    assert measured.items == {"items": 3, "duplicates": 0}


def test_a_model_that_compares_class_tokens_has_no_advanced_variant(spoken):
    model = _model(aggregation="cls_token")
    model.image_pooling, model.audio_pooling = _mean_cells, _mean_steps
    measured = Retrieval("x", _gallery(spoken)).evaluate(model)
    assert measured.metrics.keys() == {f"{way}/recall_at_{k}" for way in ("audio_to_image", "image_to_audio")
                                       for k in (1, 5, 10)}  # fmt: skip


def _mean_cells(cells: torch.Tensor) -> torch.Tensor:
    return cells.mean(dim=1)


def _mean_steps(steps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (steps * mask[..., None]).mean(dim=1)


def test_baselines_and_report_include_the_advanced_variant_and_explain_it(spoken, tmp_path):
    data = {"places_audio": DataConfig(root=str(spoken)), "own": DataConfig(kind="retrieval", root=str(spoken))}
    config = EvalConfig(benchmarks=["places_retrieval", "own"], data=data, batch_size=2)
    benchmarks = build_benchmarks(config)
    results = evaluate(
        config, benchmarks, _model(), Baselines(config, benchmarks), lambda: measure_untrained(benchmarks, _model())
    )
    for task in benchmarks:
        key = f"{task}/image_to_audio_advanced/recall_at_1"
        assert results.metrics[key] == results.metrics[f"untrained/{key}"] == 1
        assert f"global_pooling/{key}" in results.metrics
        assert f"chance/{key}" in results.metrics
    for section in sections(results):
        assert "recall@1, audio to image advanced" in [row.name for row in section.rows]
        assert list(section.variants) == ["advanced"]
        assert "clips without words" in section.used
    explained = "only audio steps within 0.2 s of a spoken word count"
    assert explained in render_html(results, [], None)
    assert explained in render_markdown(results, tmp_path / "images")
    basic = {key: value for key, value in results.metrics.items() if "advanced" not in key}
    without = Results(basic, {}, [], benchmarks=results.benchmarks)
    assert explained not in render_html(without, [], None)
