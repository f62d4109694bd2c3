"""The dense similarity volume and its scores against slow loops."""

import itertools

import pytest
import torch

from model.features import AudioFeatures, ImageFeatures
from model.similarity.config import SimilarityConfig
from model.similarity.dense import (
    AGGREGATIONS,
    HEAD_AGGREGATIONS,
    paired_similarity,
    pairwise_similarity,
    similarity_per_head,
    similarity_volume,
)

A, V, K, C, H, W, T = 3, 2, 2, 4, 2, 3, 5


def _features(images=V):
    mask = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    audio = AudioFeatures(torch.randn(A, K, C, T), mask, torch.randn(A, K, C))
    return audio, ImageFeatures(torch.randn(images, K, C, H, W), torch.randn(images, K, C))


def test_the_volume_agrees_with_a_slow_loop():
    audio, image = _features()
    volume, without_cls = similarity_volume(audio, image, use_cls=True), similarity_volume(audio, image)
    for a, v, k, h, w, t in itertools.product(*map(range, (A, V, K, H, W, T))):
        dot = (audio.dense[a, k, :, t] * image.dense[v, k, :, h, w]).sum()
        assert without_cls[a, v, k, h, w, t].item() == pytest.approx(dot.item(), abs=1e-5)
        dot += (audio.cls[a, k] * image.cls[v, k]).sum()
        assert volume[a, v, k, h, w, t].item() == pytest.approx(dot.item(), abs=1e-5)


def _slow(volume, valid, aggregation):
    """Score of one audio against one image in one head, from cells[h*W+w][t] as lists."""
    cells = volume.flatten(0, 1).tolist()
    steps = [t for t in range(T) if valid[t]]
    best = {t: max(row[t] for row in cells) for t in steps}
    misa = sum(best.values()) / len(steps)
    return {
        "misa": misa,
        "mima": max(best.values()),
        "sisa": sum(row[t] for row in cells for t in steps) / len(steps) / len(cells),
        "paired": 0.5 * misa + 0.5 * sum(max(row[t] for t in steps) for row in cells) / len(cells),
    }[aggregation]


@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize("head_aggregation", HEAD_AGGREGATIONS)
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_scores_agree_with_a_slow_loop(aggregation, head_aggregation, nonneg):
    audio, image = _features()
    config = SimilarityConfig(aggregation, head_aggregation, nonneg)
    scores, by_head = pairwise_similarity(audio, image, config), similarity_per_head(audio, image, config)
    volume = similarity_volume(audio, image)
    volume = volume.clamp(min=0) if nonneg else volume
    for a, v in itertools.product(range(A), range(V)):
        heads = [_slow(volume[a, v, k], audio.mask[a], aggregation) for k in range(K)]
        expected = {
            "sum": sum(heads),
            "max": max(heads),
            "max_elementwise": _slow(volume[a, v].amax(dim=0), audio.mask[a], aggregation),
        }[head_aggregation]
        assert by_head[a, v].tolist() == pytest.approx(heads, abs=1e-5)
        assert scores[a, v].item() == pytest.approx(expected, abs=1e-5)


def test_masked_out_steps_have_no_influence():
    audio, image = _features()
    louder = torch.where(audio.mask[:, None, None], audio.dense, 100 * torch.randn_like(audio.dense))
    for aggregation in AGGREGATIONS:
        config = SimilarityConfig(aggregation)
        assert torch.allclose(
            pairwise_similarity(audio, image, config),
            pairwise_similarity(audio._replace(dense=louder), image, config),
            atol=1e-5,
        )


def test_a_fully_masked_audio_scores_zero_with_means_and_very_low_with_maxima():
    audio, image = _features()
    audio = audio._replace(mask=torch.zeros_like(audio.mask))
    scores = {name: pairwise_similarity(audio, image, SimilarityConfig(name)) for name in AGGREGATIONS}
    assert (scores["misa"] == 0).all()
    assert (scores["sisa"] == 0).all()
    assert (scores["mima"] < -9e6).all()
    assert (scores["paired"] < -4e6).all()


def test_the_paired_volume_is_the_diagonal_of_all_pairs_and_zero_where_masked_out():
    audio, image = _features(images=A)
    for nonneg, use_cls in itertools.product((False, True), (False, True)):
        volume = similarity_volume(audio, image, use_cls=use_cls)
        volume = volume.clamp(min=0) if nonneg else volume
        expected = torch.stack([volume[b, b] for b in range(A)]) * audio.mask[:, None, None, None]
        assert torch.allclose(paired_similarity(audio, image, nonneg, use_cls), expected, atol=1e-6)


def test_one_pair_worked_out_by_hand():
    # One head, one channel: steps 1, 2, -1; cells 3, -4. Products: [3 -4], [6 -8], [-3 4].
    audio = AudioFeatures(torch.tensor([1.0, 2.0, -1.0]).view(1, 1, 1, 3), torch.ones(1, 3, dtype=torch.bool))
    image = ImageFeatures(torch.tensor([3.0, -4.0]).view(1, 1, 1, 1, 2))
    expected = {"misa": (3 + 6 + 4) / 3, "mima": 6.0, "sisa": -2 / 6, "paired": 0.5 * 13 / 3 + 0.5 * (6 + 4) / 2}
    scores = {name: pairwise_similarity(audio, image, SimilarityConfig(name)).item() for name in AGGREGATIONS}
    assert scores == pytest.approx(expected)
