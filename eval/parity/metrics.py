"""Golden cases of metrics: prompted segmentation, retrieval, disentanglement, localization."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from eval.metrics import disentanglement as heads
from eval.metrics import localization as regions
from eval.metrics.retrieval import recall_at_k
from eval.metrics.segmentation import average_precision, best_iou, normalize_and_upsample, word_window
from eval.parity.similarity import stored_features
from model.heatmap import pool_volume
from model.similarity.dense import paired_similarity


def prompted_segmentation(params: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """AP and IoU of each class, over the whole clip (basic) and over the window of the word (advanced)."""
    mask, labels = tensors["audio_mask"], tensors["labels"]
    volume = paired_similarity(*stored_features(params, tensors)).detach()
    window = word_window(tensors["word_timing_s"], mask.shape[1], tensors["total_samples"] / params["sample_rate_hz"])
    outputs = {}
    for variant, steps in (("basic", mask), ("advanced", window)):
        maps = pool_volume(volume, steps)
        maps = normalize_and_upsample(maps, maps.min().item(), maps.max().item(), *labels.shape[-2:])
        rows = [(number, tensors["prompt_class"] == number) for number in params["classes"]]
        pixels = [(maps[row].flatten(), (labels[row] == number).flatten()) for number, row in rows]
        outputs[f"{variant}_ap"] = torch.tensor([average_precision(*of_class) for of_class in pixels])
        outputs[f"{variant}_iou"] = torch.tensor([best_iou(*of_class) for of_class in pixels])
    yield outputs


def retrieval(_params: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[dict[str, float]]:
    """Recall of audio to image (`I_r*`) and of image to audio (`A_r*`)."""
    scores = {"I": tensors["scores"], "A": tensors["scores"].T}
    yield {f"{name}_r{k}": recall_at_k(matrix, k) for name, matrix in scores.items() for k in (1, 5, 10)}


def disentanglement(_params: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[dict[str, float]]:
    """pred-dis and act-dis."""
    yield heads.disentanglement(tensors["speech_scores"], tensors["sound_scores"])._asdict()


def localization(_params: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """cIoU, AUC, and both over groups, with the median and with the adaptive threshold."""
    maps, truth, group = tensors["maps"], tensors["ground_truth"], tensors["group"]
    outputs: dict[str, Tensor] = {}
    thresholds = {"": regions.threshold_at_median(maps), "_adaptive": regions.threshold_at_area(maps, truth)}
    for suffix, predicted in thresholds.items():
        values = regions.ciou(predicted, truth)
        worst = regions.group_min(values, group)
        outputs |= {
            f"ciou{suffix}_per_image": values,
            f"ciou{suffix}": regions.successes(values).mean(),
            f"auc{suffix}": regions.areas(values).mean(),
            f"iiou{suffix}": regions.successes(worst).mean(),
            f"iauc{suffix}": regions.areas(worst).mean(),
        }
    yield outputs
