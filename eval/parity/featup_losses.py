"""Golden cases of FeatUp's losses: one term, or one whole training step, with gradients."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from eval.parity.featup import stored_views
from eval.parity.upsamplers import loaded, state_gradients, stored_state
from model.upsamplers import featup_losses as losses
from model.upsamplers.depth_loss import scale_and_shift, scale_shift_invariant_loss
from model.upsamplers.downsamplers import AttentionDownsampler, SimpleDownsampler, blur
from model.upsamplers.featup_objectives import (
    ImplicitWeights,
    StackView,
    StackWeights,
    implicit_objective,
    stack_objective,
)

Params = dict[str, Any]
Tensors = dict[str, Tensor]


def featup_losses(params: Params, tensors: Tensors) -> Iterator[Tensors]:
    """The term `params.term`."""
    yield TERMS[params["term"]](params, tensors)


def _of_features(value: Callable[[Tensor], Tensor]) -> Callable[[Params, Tensors], Tensors]:
    def compute(_: Params, tensors: Tensors) -> Tensors:
        features = tensors["features"].requires_grad_()
        loss = value(features)
        return {"value": loss, "grad_features": torch.autograd.grad(loss, features)[0]}

    return compute


def _magnitude(_: Params, tensors: Tensors) -> Tensors:
    predicted = tensors["magnitude"].requires_grad_()
    loss = losses.magnitude_loss(predicted, tensors["target"])
    return {"value": loss, "grad_magnitude": torch.autograd.grad(loss, predicted)[0]}


def _crf(params: Params, tensors: Tensors) -> Tensors:
    settings = losses.CrfSettings(**{name: params[name] for name in losses.CrfSettings._fields})
    pixels = tensors["rows"], tensors["columns"]
    return _of_features(lambda features: losses.sampled_crf(tensors["guidance"], features, *pixels, settings))(
        params, tensors
    )


def _blur_pin(params: Params, tensors: Tensors) -> Tensors:
    sizes = params["kernel_size"], params["sigma"]
    outputs = _of_features(lambda features: losses.blur_pin(features, *sizes))(params, tensors)
    return {"blurred": blur(tensors["features"], *sizes), **outputs}


def _uncertainty(_: Params, tensors: Tensors) -> Tensors:
    output, target = tensors["output"].requires_grad_(), tensors["target"]
    module = loaded(losses.UncertaintyScale(target.shape[1]), stored_state(tensors))
    scale = module(target)
    loss = losses.reconstruction(output, target, scale)
    return {"scale": scale, "value": loss, **state_gradients(module, loss, {"output": output})}


def _filter_entropy(_: Params, tensors: Tensors) -> Tensors:
    raw = tensors["kernel_params"].requires_grad_()
    module = SimpleDownsampler(len(raw), 1)
    module.kernel_params = nn.Parameter(raw)
    loss = losses.kernel_entropy(module.kernel)
    gradient = torch.autograd.grad(loss, module.kernel_params)[0]
    return {"kernel": module.kernel, "value": loss, "grad_kernel_params": gradient}


def _scale_shift_invariant(params: Params, tensors: Tensors) -> Tensors:
    prediction = tensors["prediction"].requires_grad_()
    arguments = prediction, tensors["target"], tensors["mask"].to(prediction.dtype)
    scale, shift = scale_and_shift(*arguments)
    loss = scale_shift_invariant_loss(*arguments, params["alpha"], params["scales"])
    gradient = torch.autograd.grad(loss, prediction)[0]
    return {"scale": scale, "shift": shift, "value": loss, "grad_prediction": gradient}


class _Parts(nn.Module):
    """The trained parts beside the upsampler, under the names of the reference."""

    def __init__(self, params: Params, tensors: Tensors, channels: int, scale: str) -> None:
        super().__init__()
        sizes = params["kernel_size"], params["final_size"]
        is_attention = params["downsampler"] == "attention"
        self.downsampler = (
            AttentionDownsampler(channels, *sizes, is_blurred=params["blur"])
            if is_attention
            else SimpleDownsampler(*sizes)
        )
        features = tensors["view_features"].shape[-3]
        self.scale_name = scale if params["predicted_uncertainty"] else ""
        if self.scale_name:
            self.add_module(self.scale_name, losses.UncertaintyScale(features))

    @property
    def scale(self) -> nn.Module | None:
        return self.get_submodule(self.scale_name) if self.scale_name else None


def _jbu_objective(params: Params, tensors: Tensors) -> Tensors:
    upsampled, image = tensors["high_res_features"].requires_grad_(), tensors["image"]
    parts = _Parts(params, tensors, upsampled.shape[1], "scale_net")
    loaded(parts, stored_state(tensors))
    projections = tensors.get("projection")
    views = [
        StackView(
            view,
            tensors["view_features"][number],
            None if projections is None else losses.random_projection(projections[number]),
            tensors["keep"][number] if "keep" in tensors else None,
        )
        for number, view in enumerate(stored_views(tensors))
    ]
    weights = StackWeights(params["crf_weight"], params["tv_weight"], params["filter_entropy_weight"])
    pixels = tensors["crf_rows"], tensors["crf_columns"]
    crf = losses.CrfSettings(**params["crf"])
    terms = stack_objective(
        upsampled, image, views, parts.downsampler, parts.scale, params["max_pad"], pixels, weights, crf,
        is_guidance_warped=False,
    )  # fmt: skip
    return {**terms, **state_gradients(parts, terms["total"], {"high_res_features": upsampled})}


def _implicit_objective(params: Params, tensors: Tensors) -> Tensors:
    upsampled = tensors["high_res_features"].requires_grad_()
    parts = _Parts(params, tensors, upsampled.shape[1] + 1, "outlier_detector")
    state = {name.replace("outlier_detector.", "outlier_detector.net."): v for name, v in stored_state(tensors).items()}
    loaded(parts, state)
    picked = tensors["picked"].tolist()
    views = stored_views(tensors)
    weights = ImplicitWeights(params["magnitude_weight"], params["magnitude_tv_weight"], params["blur_pin_weight"])
    terms, downsampled = implicit_objective(
        upsampled,
        [views[number] for number in picked],
        tensors["view_features"][picked],
        parts.downsampler,
        parts.scale,
        params["max_pad"],
        tensors.get("keep"),
        weights,
    )
    gradients = state_gradients(parts, terms["total"], {"high_res_features": upsampled})
    renamed = {name.replace("outlier_detector.net.", "outlier_detector."): value for name, value in gradients.items()}
    return {**terms, "downsampled": downsampled, **renamed}


TERMS: dict[str, Callable[[Params, Tensors], Tensors]] = {
    "tv": _of_features(losses.total_variation),
    "magnitude_tv": _of_features(lambda features: losses.total_variation(losses.magnitude(features))),
    "squared_magnitude_tv": _of_features(lambda features: losses.total_variation(losses.squared_magnitude(features))),
    "magnitude": _magnitude,
    "crf": _crf,
    "crf_shift": _crf,
    "blur_pin": _blur_pin,
    "uncertainty": _uncertainty,
    "filter_entropy": _filter_entropy,
    "scale_shift_invariant": _scale_shift_invariant,
    "jbu_objective": _jbu_objective,
    "implicit_objective": _implicit_objective,
}
