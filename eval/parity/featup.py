"""Golden cases of FeatUp's training: downsamplers, views, the implicit upsampler."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from eval.parity.upsamplers import loaded, state_gradients, stored_state
from model.upsamplers.downsamplers import AttentionDownsampler, SimpleDownsampler
from model.upsamplers.implicit import FourierFeatures, MinMaxScaler, implicit_upsampler
from model.upsamplers.views import View, warp


def downsample_attention(params: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The attention downsampler, with patches that are left out and without."""
    features = tensors["features"].requires_grad_()
    sizes = features.shape[1], params["kernel_size"], params["final_size"], params["blur"]
    module = loaded(AttentionDownsampler(*sizes), stored_state(tensors))
    downsampled = module(features, tensors["keep"])
    gradients = state_gradients(module, (downsampled * tensors["grad_downsampled"]).sum(), {"features": features})
    yield {"downsampled": downsampled, "downsampled_all_kept": module(features), **gradients}


def downsample_simple(params: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """One kernel for all channels."""
    features = tensors["features"].requires_grad_()
    module = SimpleDownsampler(params["kernel_size"], params["final_size"])
    loaded(module, stored_state(tensors))
    downsampled = module(features)
    loss = (downsampled * tensors["grad_downsampled"]).sum()
    yield {"kernel": module.kernel, "downsampled": downsampled, **state_gradients(module, loss, {"features": features})}


def implicit_features(params: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Fourier features of an image."""
    module = FourierFeatures(params["frequencies"], params["color"], params["learned_bias"])
    loaded(module, stored_state(tensors))
    scaled = MinMaxScaler()(tensors["image"]) if params["min_max_scaled"] else tensors["image"]
    yield {"scaled_image": scaled, "features": module(scaled)}


def implicit_network(params: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The implicit upsampler with the gradients of its weights."""
    module = implicit_upsampler(params["channels"], params["frequencies"], params["color"])
    loaded(module, stored_state(tensors))
    features = module(tensors["image"])
    yield {"features": features, **state_gradients(module, (features * tensors["grad_features"]).sum(), {})}


def stored_views(tensors: dict[str, Tensor]) -> list[View]:
    """The views of a case."""
    columns = (tensors[name].tolist() for name in ("row", "column", "zoom", "flip"))
    return [View(*values) for values in zip(*columns, strict=True)]


def jitter(params: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Views of an image and the gradient of the image."""
    image = tensors["image"].requires_grad_()
    warped = torch.stack([warp(image, view, params["max_pad"]) for view in stored_views(tensors)])
    (gradient,) = torch.autograd.grad(warped, image, tensors["grad_warped"])
    yield {"warped": warped, "grad_image": gradient}
