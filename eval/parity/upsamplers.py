"""Golden cases of upsamplers: FeatUp's stages and stack, AnyUp, JAFAR."""

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.convert.upsamplers import anyup_weights, jafar_weights
from model.upsamplers.anyup import AnyUp
from model.upsamplers.channel_norm import ChannelNorm
from model.upsamplers.jafar import Jafar
from model.upsamplers.jbu import Jbu, JbuStage
from model.upsamplers.window import Window

Module = TypeVar("Module", bound=nn.Module)


def stored_state(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a case."""
    return {key.removeprefix("state."): tensor for key, tensor in tensors.items() if key.startswith("state.")}


def loaded(module: Module, state: dict[str, Tensor]) -> Module:
    """A module in evaluation mode with these weights."""
    module.load_state_dict(state)
    return module.eval()


def state_gradients(module: nn.Module, loss: Float[Tensor, ""], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of a loss with respect to inputs, as `grad_NAME`, and parameters, as `grad_state.NAME`."""
    named = {f"grad_{name}": tensor for name, tensor in inputs.items()}
    named |= {f"grad_state.{name}": parameter for name, parameter in module.named_parameters()}
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(named, gradients, strict=True) if gradient is not None}


def jbu_stage(params: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """One stage, its kernel and all gradients."""
    sizes = params["radius"], params["key_channels"], params["guidance_channels"]
    stage = loaded(JbuStage(*sizes), stored_state(tensors))
    source, guidance = (tensors[name].requires_grad_() for name in ("source", "guidance"))
    features = stage.weights(guidance, (source.shape[2], source.shape[3])).apply(source)
    loss = (features * tensors["grad_features"]).sum()
    gradients = state_gradients(stage, loss, {"source": source, "guidance": guidance})
    yield {"features": features, "kernel": stage.kernel(guidance), **gradients}


def jbu_stack(_: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The four stages with their final mix: weights that are kept, and the whole at once."""
    source, guidance = tensors["source"], tensors["guidance"]
    jbu = Jbu(source.shape[1])
    loaded(jbu, stored_state(tensors))
    weights = jbu.guided_weights(guidance, (source.shape[2], source.shape[3]))
    first = weights.stages[0].apply(source)
    second = weights.stages[1].apply(first)
    for features in (jbu.upsample(source, weights), jbu(source, guidance)):
        yield {"stage1": first, "stage2": second, "features": features}


def channel_norm(params: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """LayerNorm over channels."""
    features = tensors["features"].requires_grad_()
    norm = loaded(ChannelNorm(features.shape[1], params["eps"]), stored_state(tensors))
    normalized = norm(features)
    loss = (normalized * tensors["grad_features"]).sum()
    yield {"features": normalized, **state_gradients(norm, loss, {"features": features})}


def anyup(params: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The published AnyUp."""
    sizes = params["qk_dim"], params["heads"], params["window_ratio"], params["unification_kernel"]
    model = AnyUp(*sizes, published_order=True, groups=params["groups"])
    loaded(model, anyup_weights(stored_state(tensors)))
    weights = model.guided_weights(tensors["image"], tensors["features"], tuple(params["output_size"]))
    yield {
        "features": weights.apply(tensors["features"]),
        "unified": model.unification.unify(tensors["features"]),
        "visible": _visible(weights.window),
    }


def jafar(params: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The published JAFAR."""
    features = tensors["features"]
    model = Jafar(features.shape[1], params["qk_dim"], params["heads"], params["groups"])
    loaded(model, jafar_weights(stored_state(tensors)))
    weights = model.guided_weights(tensors["image"], features, tuple(params["output_size"]))
    yield {"features": weights.apply(features)}


def _visible(window: Window) -> Tensor:
    """Which cells of the source each output pixel mixes, [H * W, h * w]."""
    height, width = window.source_size
    cells = (window.rows[:, None, :, None] * width + window.columns[None, :, None, :]).flatten(2)
    seen = torch.zeros(*window.size, height * width + 1, dtype=torch.bool)
    seen.scatter_(2, torch.where(window.valid, cells, height * width), True)
    return seen[:, :, :-1].flatten(0, 1)
