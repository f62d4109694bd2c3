import itertools

import pytest
import torch

from model.similarity.dense import (
    AGGREGATIONS,
    HEAD_AGGREGATIONS,
    paired_similarity,
    pairwise_similarity,
    similarity_per_head,
    similarity_volume,
)

A, V, K, C, H, W, T = 3, 2, 2, 4, 2, 3, 5


def _features():
    mask = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    return torch.randn(A, K, C, T), torch.randn(V, K, C, H, W), mask


def test_the_volume_agrees_with_a_slow_loop():
    audio, image, _ = _features()
    audio_cls, image_cls = torch.randn(A, K, C), torch.randn(V, K, C)
    volume = similarity_volume(audio, image, audio_cls, image_cls)
    for a, v, k, h, w, t in itertools.product(*map(range, (A, V, K, H, W, T))):
        expected = (audio[a, k, :, t] * image[v, k, :, h, w]).sum() + (audio_cls[a, k] * image_cls[v, k]).sum()
        assert volume[a, v, k, h, w, t].item() == pytest.approx(expected.item(), abs=1e-5)


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
    audio, image, mask = _features()
    scores = pairwise_similarity(audio, image, mask, aggregation, head_aggregation, nonneg)
    by_head = similarity_per_head(audio, image, mask, aggregation, nonneg)
    volume = similarity_volume(audio, image)
    volume = volume.clamp(min=0) if nonneg else volume
    for a, v in itertools.product(range(A), range(V)):
        heads = [_slow(volume[a, v, k], mask[a], aggregation) for k in range(K)]
        whole = {
            "sum": sum(heads),
            "max": max(heads),
            "max_elementwise": _slow(volume[a, v].amax(dim=0), mask[a], aggregation),
        }[head_aggregation]
        assert by_head[a, v].tolist() == pytest.approx(heads, abs=1e-5)
        assert scores[a, v].item() == pytest.approx(whole, abs=1e-5)


def test_masked_out_steps_have_no_say():
    audio, image, mask = _features()
    louder = torch.where(mask[:, None, None], audio, 100 * torch.randn_like(audio))
    for aggregation in AGGREGATIONS:
        assert torch.allclose(
            pairwise_similarity(audio, image, mask, aggregation),
            pairwise_similarity(louder, image, mask, aggregation),
            atol=1e-5,
        )


def test_a_fully_masked_audio_scores_zero_in_means_and_far_below_all_in_maxima():
    audio, image, mask = _features()
    nothing = torch.zeros_like(mask)
    assert (pairwise_similarity(audio, image, nothing, "misa") == 0).all()
    assert (pairwise_similarity(audio, image, nothing, "sisa") == 0).all()
    assert (pairwise_similarity(audio, image, nothing, "mima") < -9e6).all()
    assert (pairwise_similarity(audio, image, nothing, "paired") < -4e6).all()


def test_the_paired_volume_is_the_diagonal_of_all_pairs_and_zero_where_masked_out():
    audio, image = torch.randn(3, K, C, T), torch.randn(3, K, C, H, W)
    audio_cls, image_cls = torch.randn(3, K, C), torch.randn(3, K, C)
    mask = _features()[2]
    for nonneg, cls in itertools.product((False, True), ((None, None), (audio_cls, image_cls))):
        volume = similarity_volume(audio, image, *cls)
        volume = volume.clamp(min=0) if nonneg else volume
        expected = torch.stack([volume[b, b] for b in range(3)]) * mask[:, None, None, None]
        assert torch.allclose(paired_similarity(audio, image, mask, nonneg, *cls), expected, atol=1e-6)


def test_one_pair_worked_out_by_hand():
    # One head, one channel: steps 1, 2, -1; cells 3, -4. Products: [3 -4], [6 -8], [-3 4].
    audio = torch.tensor([1.0, 2.0, -1.0]).view(1, 1, 1, 3)
    image = torch.tensor([3.0, -4.0]).view(1, 1, 1, 1, 2)
    mask = torch.ones(1, 3, dtype=torch.bool)
    expected = {"misa": (3 + 6 + 4) / 3, "mima": 6.0, "sisa": -2 / 6, "paired": 0.5 * 13 / 3 + 0.5 * (6 + 4) / 2}
    assert {name: pairwise_similarity(audio, image, mask, name).item() for name in AGGREGATIONS} == pytest.approx(
        expected
    )
