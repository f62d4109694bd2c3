"""Metrics against values computed by hand and slow loops; the golden cases run in test_parity.py."""

import math

import pytest
import torch

from eval.metrics import localization, retrieval
from eval.metrics.bootstrap import bootstrap_counts, percentile_interval
from eval.metrics.disentanglement import disentanglement, disentanglement_intervals
from eval.metrics.retrieval import recall_at_k
from eval.metrics.segmentation import (
    average_precision,
    best_iou,
    normalize_and_upsample,
    word_window,
)
from model.heatmap import pool_volume


def test_recall_counts_queries_with_the_match_among_the_best_k():
    scores = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.5, 0.6], [0.3, 0.2, 0.1]])
    assert [recall_at_k(scores, k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 1 / 3, 1.0])
    assert recall_at_k(scores.T, 2) == pytest.approx(2 / 3)


def test_recall_of_constant_scores_is_zero():
    assert recall_at_k(torch.zeros(20, 20), 10) == 0.0


def test_ranks_do_not_depend_on_the_chunk_size(monkeypatch):
    scores = torch.randint(20, (50, 50)).float()
    slow = torch.tensor([sum(bool(other >= row[n]) for other in row) for n, row in enumerate(scores)])
    for at_once in (1, 120, 10**6):
        monkeypatch.setattr(retrieval, "CHUNK_SCORES", at_once)
        assert torch.equal(retrieval.ranks(scores), slow) and recall_at_k(scores, 10) == (slow <= 10).double().mean()


@pytest.mark.parametrize(
    ("scores", "message"),
    [(torch.zeros(2, 3), r"\(2, 3\)"), (torch.zeros(0, 0), "square"), (torch.full((2, 2), math.nan), "4 of 4 scores")],
)
def test_recall_refuses_non_square_and_nan_scores(scores, message):
    with pytest.raises(ValueError, match=message):
        recall_at_k(scores, 1)


def _slow_average_precision(scores, relevant):
    total = 0.0
    for value in sorted(set(scores.tolist()), reverse=True):
        at, above = scores >= value, scores > value
        gained = int((at & relevant).sum()) - int((above & relevant).sum())
        total += gained / int(relevant.sum()) * int((at & relevant).sum()) / int(at.sum())
    return total


@pytest.mark.parametrize("levels", [3, 40, 100000])
def test_average_precision_equals_a_slow_loop_with_and_without_ties(levels):
    scores, relevant = torch.randint(levels, (300,)).float(), torch.rand(300) < 0.2
    assert average_precision(scores, relevant) == pytest.approx(_slow_average_precision(scores, relevant), abs=1e-12)


def test_average_precision_of_a_constant_map_is_the_fraction_of_relevant_pixels():
    relevant = torch.arange(1000) < 75
    assert (
        average_precision(torch.zeros(1000), relevant)
        == average_precision(torch.zeros(1000), relevant.flip(0))
        == 0.075
    )
    assert average_precision(torch.arange(1000).float().neg(), relevant) == 1.0
    assert math.isnan(average_precision(torch.zeros(4), torch.zeros(4, dtype=torch.bool)))
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        average_precision(torch.tensor([0.0, math.nan]), torch.tensor([True, False]))


def test_best_iou_is_the_best_of_twenty_strict_thresholds():
    scores = torch.rand(500)
    relevant = scores + torch.rand(500) > 1.2
    slow = []
    for i in range(20):
        kept = scores > scores.min() + (scores.max() - scores.min()) * i / 19
        slow.append(float((kept & relevant).sum() / max(1, int((kept | relevant).sum()))))
    assert best_iou(scores, relevant) == pytest.approx(max(slow)) and 0 < slow.index(max(slow)) < 19
    assert best_iou(torch.zeros(5), torch.zeros(5, dtype=torch.bool)) == 0.0


def test_word_window_is_clipped_to_the_audio_and_never_empty():
    timing = torch.tensor([[0.5, 0.7], [0.0, 0.1], [1.9, 2.5], [7.0, 8.0]])
    window = word_window(timing, steps=20, duration_s=torch.full((4,), 2.0))
    assert [row.nonzero()[:, 0].tolist() for row in window] == [[*range(3, 9)], [*range(3)], [17, 18, 19], [19]]


def test_heatmap_is_the_mean_of_the_best_head_over_selected_steps():
    volume = torch.zeros(2, 2, 1, 2, 3)
    volume[0, 0, 0, 0], volume[0, 1, 0, 0] = torch.tensor([1.0, 2.0, 9.0]), torch.tensor([3.0, 0.0, 9.0])
    steps = torch.tensor([[True, True, False], [False, False, False]])
    assert pool_volume(volume, steps).tolist() == [[[2.5, 0.0]], [[0.0, 0.0]]]
    assert pool_volume(volume, steps, per_head=True)[0, :, 0, 0].tolist() == [1.5, 1.5]


def test_maps_are_scaled_over_the_whole_set_and_a_constant_set_becomes_zero():
    maps = torch.tensor([[[0.0, 2.0]], [[4.0, 4.0]]])
    assert normalize_and_upsample(maps, 0.0, 4.0, 1, 2).tolist() == [[[0.0, 0.5]], [[1.0, 1.0]]]
    assert normalize_and_upsample(torch.full((1, 2, 2), 3.0), 3.0, 3.0, 4, 4).unique().tolist() == [0.0]


def test_disentanglement_is_one_for_specialized_heads_only():
    apart = disentanglement(torch.tensor([[5.0, 0.0], [5.0, 0.0]]), torch.tensor([[0.0, 7.0]]))
    assert apart == (1.0, 1.0)
    swapped = disentanglement(torch.tensor([[0.0, 7.0]]), torch.tensor([[5.0, 0.0], [5.0, 0.0]]))
    assert swapped == apart
    same = torch.rand(200, 1).expand(-1, 2)
    assert disentanglement(same[:100], same[100:]).pred_dis == pytest.approx(0.5, abs=0.1)
    with pytest.raises(ValueError, match="2 heads"):
        disentanglement(torch.rand(3, 1), torch.rand(3, 1))


def test_disentanglement_intervals_equal_recomputing_every_draw():
    speech, sound = (
        torch.rand(13, 2).mul(9).round() + torch.tensor([3.0, 0.0]),
        torch.rand(9, 2).mul(9).round() + torch.tensor([0.0, 3.0]),
    )
    rows = [
        [torch.arange(len(w)).repeat_interleave(w.long()) for w in bootstrap_counts(len(source), seed)]
        for source, seed in ((speech, 5), (sound, 6))
    ]
    again = torch.tensor(
        [disentanglement(speech[own], sound[other]) for own, other in zip(*rows, strict=True)], dtype=torch.float64
    )
    found = disentanglement_intervals(speech, sound, seed=5)
    assert found["pred_dis"] == pytest.approx(percentile_interval(again[:, 0]), abs=1e-6) and found[
        "act_dis"
    ] == pytest.approx(percentile_interval(again[:, 1]), abs=1e-6)
    assert found["pred_dis"].low < disentanglement(speech, sound).pred_dis < found["pred_dis"].high


def test_ciou_by_hand_penalizes_selected_pixels_outside_the_region():
    truth = torch.tensor([[[1.0, 0.5], [0.0, 0.0]]])
    kept = torch.tensor([[[True, True], [True, False]]])
    assert localization.ciou(kept, truth).item() == pytest.approx(1.5 / 2.5)
    assert localization.ciou(~kept, torch.zeros(1, 2, 2)).item() == 0.0


def test_group_min_takes_the_worst_prompt_of_an_image():
    values, group = torch.tensor([0.9, 0.4, 0.6, 0.7]), torch.tensor([3, 3, 8, 8])
    assert localization.successes(values).mean() == 0.75
    assert localization.successes(localization.group_min(values, group)).mean() == 0.5
    assert localization.areas(torch.ones(3)).mean().item() == pytest.approx(1.0)
