"""Golden cases of the reference: read one, compute it by our code, and measure the largest absolute difference."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from configs.errors import UsageError
from eval.parity.released_checkpoint import released_checkpoint

# Name -> torch.Tensor; torch is imported where it is needed, so that --help is quick.
Tensors = dict[str, Any]

# Largest absolute difference in fp32 (tests/golden/README.md).
TOLERANCES = {
    "scores": 1e-4,
    "paired_volume": 1e-5,
    "loss_terms": 1e-4,
    "projection": 1e-4,
    "audio_mask": 1e-6,
    "mel": 2e-3,
    "prompted_segmentation": 1e-4,
    "retrieval": 1e-5,
    "disentanglement": 1e-5,
    "localization": 1e-5,
    "released_checkpoint": 3e-2,
}


# Outputs held to another tolerance than their kind's; their differences are shown as if it were that.
OUTPUT_TOLERANCES = {
    "released_checkpoint": {"scores": 5e-2, "scores_by_head": 5e-2, "audio_features": 5e-5, "audio_cls": 5e-5}
}


class Outcome(NamedTuple):
    """One case: `difference` is inf when an output is missing or has another shape."""

    kind: str
    case: str
    difference: float
    tolerance: float

    @property
    def verdict(self) -> str:
        """`ok` or `MISS`."""
        return "ok" if self.difference <= self.tolerance else "MISS"


def check_folder(folder: Path) -> list[Outcome]:
    """Run every case of a folder, in the order of kind and name.

    Raises:
        UsageError: no case there, or a file that is not a case.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UsageError(f"{folder}: no NAME.safetensors there; give a folder of golden cases")
    return sorted(
        (check_case(file) for file in files), key=lambda outcome: (list(TOLERANCES).index(outcome.kind), outcome.case)
    )


def check_case(file: Path) -> Outcome:
    """Run one case.

    Raises:
        UsageError: not a case, or of an unknown kind.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as stored:
            case = json.loads(stored.metadata()["case"])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        kind, params = case["kind"], case["params"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file}: not a golden case ({type(error).__name__}: {error})") from None
    if not isinstance(kind, str) or kind not in TOLERANCES:
        raise UsageError(f"{file}: kind {kind!r}, allowed are {', '.join(TOLERANCES)}")
    wanted = {name.removeprefix("out."): tensor for name, tensor in tensors.items() if name.startswith("out.")}
    if not wanted:
        raise UsageError(f"{file}: not a golden case (no tensor is called out.NAME, so nothing is to be compared)")
    given = {name.removeprefix("in."): tensor for name, tensor in tensors.items() if not name.startswith("out.")}
    if kind == "released_checkpoint":
        params = params | {"keys": _keys_beside(file)}
    shares = {name: TOLERANCES[kind] / OUTPUT_TOLERANCES.get(kind, {}).get(name, TOLERANCES[kind]) for name in wanted}
    try:
        differences = [
            shares[name] * _difference(forms.get(name), expected)
            for forms in RUNNERS[kind](params, given)
            for name, expected in wanted.items()
        ]
    except Exception as error:  # a case that nothing can be computed from is a miss, and the next one is looked at
        print(f"{file}: {type(error).__name__}: {' '.join(str(error).split())[:300]}", file=sys.stderr)
        differences = [math.inf]
    return Outcome(kind, file.stem, max(differences), TOLERANCES[kind])


def _keys_beside(file: Path) -> dict[str, list[int]]:
    keys = file.with_name("released_checkpoint_keys.json")
    try:
        return json.loads(keys.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{keys}, the names and shapes of the weights of {file.name}, cannot be read ({error})"
        ) from None


def _difference(computed: Any, expected: Any) -> float:
    import torch

    if computed is None:
        return float("inf")
    computed = torch.as_tensor(computed).detach().double()
    if computed.numel() != expected.numel():
        return float("inf")
    return (computed.reshape(expected.shape) - expected.double()).abs().nan_to_num(nan=float("inf")).max().item()


def _features(params: dict[str, Any], given: Tensors) -> tuple[Any, Any]:
    """Audio [B K C T] and image [B K C H W], both wanting a gradient, from the stored [B K*C ...]."""
    audio, image = (
        given[name].unflatten(1, (params["num_heads"], -1)) for name in ("audio_features", "image_features")
    )
    return audio.requires_grad_(), image.requires_grad_()


def _scores(params: dict[str, Any], given: Tensors) -> Iterator[Tensors]:
    import torch

    from model.features import AudioFeatures, ImageFeatures
    from model.similarity import dense, fused
    from model.similarity.config import SimilarityConfig

    for form in (dense, fused):
        audio, image = _features(params, given)
        config = SimilarityConfig(params["aggregation"], params["head_aggregation"], params["nonneg"])
        features = AudioFeatures(audio, given["audio_mask"]), ImageFeatures(image)
        scores = form.pairwise_similarity(*features, config)
        grad_audio, grad_image = torch.autograd.grad(scores, (audio, image), given["grad_scores"])
        by_head = form.similarity_per_head(*features, config)
        yield {
            "scores": scores,
            "scores_by_head": by_head,
            "grad_audio_features": grad_audio,
            "grad_image_features": grad_image,
        }


def _paired_volume(params: dict[str, Any], given: Tensors) -> Iterator[Tensors]:
    from model.features import AudioFeatures, ImageFeatures
    from model.similarity.dense import paired_similarity

    audio, image = _features(params, given)
    volume = paired_similarity(AudioFeatures(audio, given["audio_mask"]), ImageFeatures(image))
    yield {"volume": volume, "head_max": volume.max(dim=1).values}


# Name of a term's weight in the reference -> our name of the term.
LOSS_NAMES = {
    "cal_balance_weight": "logit_scale_floor",
    "mixup_weight": "image_mixup",
    "neg_audio_weight": "negative_audio",
    "specialization_weight": "head_specialization",
    "tv_weight": "tv",
    "disentangle_weight": "disentangle",
}


def _loss_terms(params: dict[str, Any], given: Tensors) -> Iterator[Tensors]:
    import torch

    from model.features import AudioFeatures, ImageFeatures
    from model.losses.contrastive import ContrastiveConfig, LogitScale
    from model.losses.inputs import LossInputs
    from model.losses.objective import compute_loss_terms, weighted_sum

    audio, image = _features(params, given)
    log_scale = given["log_scale"].squeeze().requires_grad_()
    inputs = LossInputs(
        image=ImageFeatures(image),
        audio=AudioFeatures(audio, given["audio_mask"]),
        logit_scale=LogitScale(log_scale),
        audio_positive_weight=given["audio_positive_mask"],
        image_weight=given["image_mask"][:, 0],
        source=given["source"],
    )
    weights = {LOSS_NAMES[name]: weight for name, weight in params["weights"].items()}
    terms = compute_loss_terms(inputs, ContrastiveConfig(), weights).terms
    loss = weighted_sum(terms, weights)
    grad_audio, grad_image, grad_log_scale = torch.autograd.grad(loss, (audio, image, log_scale))
    # `term` is the regularizers alone, or InfoNCE where it is the subject of the case.
    term = loss - terms["info_nce"] if weights else loss
    gradients = {"grad_audio_features": grad_audio, "grad_image_features": grad_image, "grad_log_scale": grad_log_scale}
    yield {"term": term, "total": loss, **gradients}


def _projection(params: dict[str, Any], given: Tensors) -> Iterator[Tensors]:
    import torch

    from model.convert.denseav import convert_projection
    from model.projection import AudioSelfAttentionPool, ImageLinear

    kinds = {"image_linear": ImageLinear, "audio_sa_3_3_pool_2": AudioSelfAttentionPool}
    projection = kinds[params["aligner"]](params["in_dim"], params["out_dim"]).eval()
    stored = {name.removeprefix("state."): tensor for name, tensor in given.items() if name.startswith("state.")}
    projection.load_state_dict(convert_projection(stored, projection))
    # The reference's audio features carry a frequency axis, which its projection averages away.
    dense = given["features"].mean(dim=2) if isinstance(projection, AudioSelfAttentionPool) else given["features"]
    with torch.no_grad():
        features, cls = projection(dense, given["cls"])
    yield {"features": features, "cls": cls}


def _audio_mask(params: dict[str, Any], given: Tensors) -> Iterator[Tensors]:
    import torch

    from model.audio_mask import downsample_mask, downsample_weight

    position = torch.arange(164_200)
    first, end = given["mask_end"][:, :1], given["mask_end"][:, 1:]
    mask = (position >= first) & (position < end)
    steps = params["target_length"]
    yield {"mask": downsample_mask(mask, steps) if params["discrete"] else downsample_weight(mask.float(), steps)}


def _mel(params: dict[str, Any], given: Tensors) -> Iterator[Tensors]:
    import torch

    from pipelines.modalities.log_mel import HOP_MS, MEL_BINS, log_mel

    assert (params["num_mel_bins"], params["frame_shift_ms"], params["window"], params["dither"]) == (
        MEL_BINS,
        HOP_MS,
        "hanning",
        0,
    )
    waveform = given["waveform"][: params["target_samples"]]
    padded = torch.nn.functional.pad(waveform, (0, params["target_samples"] - len(waveform)))
    frames = torch.from_numpy(log_mel(padded.numpy(), 16_000))
    normalised = (frames - params["mean"]) / params["std"]
    yield {
        "spectrogram": normalised,
        "audio_length": torch.tensor(len(waveform)),
        "waveform_padded_length": torch.tensor(len(padded)),
    }


def _prompted_segmentation(params: dict[str, Any], given: Tensors) -> Iterator[Tensors]:
    import torch

    from eval.metrics.segmentation import average_precision, best_iou, normalize_and_upsample, word_window
    from model.features import AudioFeatures, ImageFeatures
    from model.heatmap import pool_volume
    from model.similarity.dense import paired_similarity

    audio, image = (features.detach() for features in _features(params, given))
    mask, labels = given["audio_mask"], given["labels"]
    volume = paired_similarity(AudioFeatures(audio, mask), ImageFeatures(image))
    window = word_window(given["word_timing_s"], mask.shape[1], given["total_samples"] / params["sample_rate_hz"])
    outputs = {}
    for variant, steps in (("basic", mask), ("advanced", window)):
        maps = pool_volume(volume, steps)
        maps = normalize_and_upsample(maps, maps.min().item(), maps.max().item(), *labels.shape[-2:])
        rows_of = [(number, given["prompt_class"] == number) for number in params["classes"]]
        pixels = [(maps[rows].flatten(), (labels[rows] == number).flatten()) for number, rows in rows_of]
        outputs[f"{variant}_ap"] = torch.tensor([average_precision(*of_class) for of_class in pixels])
        outputs[f"{variant}_iou"] = torch.tensor([best_iou(*of_class) for of_class in pixels])
    yield outputs


def _retrieval(params: dict[str, Any], given: Tensors) -> Iterator[Tensors]:  # noqa: ARG001
    from eval.metrics.retrieval import recall_at_k

    by_row = {"I": given["scores"], "A": given["scores"].T}
    yield {f"{name}_r{k}": recall_at_k(scores, k) for name, scores in by_row.items() for k in (1, 5, 10)}


def _disentanglement(params: dict[str, Any], given: Tensors) -> Iterator[Tensors]:  # noqa: ARG001
    from eval.metrics.disentanglement import disentanglement

    yield disentanglement(given["speech_scores"], given["sound_scores"])._asdict()


def _localization(params: dict[str, Any], given: Tensors) -> Iterator[Tensors]:  # noqa: ARG001
    from eval.metrics import localization

    maps, truth, group = given["maps"], given["ground_truth"], given["group"]
    outputs = {}
    for suffix, kept in (
        ("", localization.threshold_at_median(maps)),
        ("_adaptive", localization.threshold_at_area(maps, truth)),
    ):
        values = localization.ciou(kept, truth)
        worst = localization.group_min(values, group)
        outputs |= {
            f"ciou{suffix}_per_image": values,
            f"ciou{suffix}": localization.success_rate(values),
            f"auc{suffix}": localization.area_under_curve(values),
        }
        outputs |= {
            f"iiou{suffix}": localization.success_rate(worst),
            f"iauc{suffix}": localization.area_under_curve(worst),
        }
    yield outputs


RUNNERS: dict[str, Callable[[dict[str, Any], Tensors], Iterator[Tensors]]] = {
    "scores": _scores,
    "paired_volume": _paired_volume,
    "loss_terms": _loss_terms,
    "projection": _projection,
    "audio_mask": _audio_mask,
    "mel": _mel,
    "prompted_segmentation": _prompted_segmentation,
    "retrieval": _retrieval,
    "disentanglement": _disentanglement,
    "localization": _localization,
    "released_checkpoint": released_checkpoint,
}
