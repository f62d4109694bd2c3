"""Fits FeatUp's implicit upsampler to one image: its output, downsampled, agrees with the encoder in all views.

Source: reference 4.1.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.upsamplers.downsamplers import AttentionDownsampler
from model.upsamplers.featup_losses import UncertaintyScale
from model.upsamplers.featup_objectives import implicit_objective
from model.upsamplers.implicit import ImplicitFeatures
from model.upsamplers.views import View, draw_view, warp

Encode = Callable[[Float[Tensor, "1 3 H_img W_img"]], Float[Tensor, "1 C H W"]]
LARGE_KERNEL, LARGE_STRIDE = 29, 14
# The error of the reconstruction has to fall by this part from one window of steps to the next.
MIN_GAIN, WINDOW_STEPS = 0.005, 100


class FitSettings(NamedTuple):
    """Settings of a fit; the defaults are the published ones.

    Attributes:
        views: of the image, all encoded before the first step.
        steps: at most; the fit ends when the error has stopped falling.
        views_per_step: drawn with repeats.
        pca_views: whose features the principal components are computed from.
        channels: components that are fitted, and width of the network; at most those of the encoder.
        frequencies: of the Fourier features.
        max_pad, max_zoom: of the views.
        lr: learning rate of NAdam.
    """

    views: int = 3000
    steps: int = 1200
    views_per_step: int = 10
    pca_views: int = 50
    channels: int = 128
    frequencies: int = 30
    max_pad: int = 30
    max_zoom: float = 1.8
    lr: float = 2e-3


class FitProgress(NamedTuple):
    """State of a fit after a view is encoded (`error` is NaN) or a step is made.

    Attributes:
        done, total: views, or steps.
        error: mean squared error of the reconstructed components.
    """

    stage: str
    done: int
    total: int
    error: float = float("nan")


class Components(NamedTuple):
    """Principal components of features: values `(x - mean) @ basis`, back `z @ basis.T + mean`."""

    mean: Float[Tensor, "C"]
    basis: Float[Tensor, "C D"]


def fit_implicit(
    image: Float[Tensor, "1 3 H_img W_img"],
    encode: Encode,
    stride: int,
    settings: FitSettings = FitSettings(),  # noqa: B008
    seed: int = 0,
    on_progress: Callable[[FitProgress], object] = lambda _: None,
) -> ImplicitFeatures:
    """Fit the features of an encoder for one image.

    Args:
        image: normalized; its sides are multiples of `stride`.
        encode: the encoder, without gradients.
        stride: pixels of a cell.
        seed: of views, weights and dropout; torch's own random state is left as it is.
        on_progress: called after each encoded view and each step.

    Returns:
        The fitted module, in evaluation mode on the device of the image.
    """
    devices = [image.device] if image.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        size = (image.shape[2], image.shape[3])
        views = [draw_view(size, settings.max_pad, settings.max_zoom, generator) for _ in range(settings.views)]
        components, targets = _encode_views(image, encode, views, settings, on_progress)
        model = ImplicitFeatures(components.basis.shape[1], settings.frequencies, True, len(components.mean))
        model.components.copy_(components.basis.T)
        model.mean.copy_(components.mean)
        model.to(image.device)
        for progress in _fit(model.network, image, views, targets, stride, settings, generator):
            on_progress(progress)
    return model.eval()


@torch.no_grad()
def _encode_views(
    image: Tensor,
    encode: Encode,
    views: list[View],
    settings: FitSettings,
    on_progress: Callable[[FitProgress], object],
) -> tuple[Components, Float[Tensor, "N D f g"]]:
    """Principal components of the first views, and all views in these; whole features are kept of those alone."""
    parts: list[Tensor] = []
    components: Components | None = None
    for number, view in enumerate(views, 1):
        parts.append(encode(warp(image, view, settings.max_pad)).float())
        if number == min(settings.pca_views, len(views)):
            components = _principal_components(torch.cat(parts), settings.channels)
            parts = [_project(part, components) for part in parts]
        elif components is not None:
            parts[-1] = _project(parts[-1], components)
        on_progress(FitProgress("views", number, len(views)))
    assert components is not None
    return components, torch.cat(parts)


def _principal_components(features: Float[Tensor, "N C f g"], number: int) -> Components:
    rows = features.movedim(1, -1).flatten(0, -2)
    mean = rows.mean(dim=0)
    covariance = (rows - mean).T @ (rows - mean) / len(rows)
    return Components(mean, torch.linalg.eigh(covariance).eigenvectors.flip(-1)[:, :number])


def _project(features: Float[Tensor, "N C f g"], components: Components) -> Float[Tensor, "N D f g"]:
    return ((features.movedim(1, -1) - components.mean) @ components.basis).movedim(-1, 1)


def _fit(
    network: nn.Module,
    image: Tensor,
    views: list[View],
    targets: Float[Tensor, "N D f g"],
    stride: int,
    settings: FitSettings,
    generator: torch.Generator,
) -> Iterator[FitProgress]:
    """Make the steps of the fit; ends early when the error has stopped falling."""
    channels, rows = targets.shape[1:3]
    downsampler = AttentionDownsampler(channels + 1, LARGE_KERNEL if stride >= LARGE_STRIDE else stride, rows)
    parts = nn.ModuleList([network, downsampler, UncertaintyScale(channels)]).to(image.device).train()
    optimizer = torch.optim.NAdam(parts.parameters(), lr=settings.lr)
    errors: list[float] = []
    for step in range(1, settings.steps + 1):
        chosen = torch.randint(len(views), (settings.views_per_step,), generator=generator).tolist()
        picked = targets[chosen]
        terms, down = implicit_objective(
            network(image), [views[index] for index in chosen], picked, downsampler, parts[2], settings.max_pad
        )
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
        errors.append(float((down[:, 1:] - picked).detach().square().mean()))
        yield FitProgress("steps", step, settings.steps, errors[-1])
        if _has_settled(errors):
            return


def _has_settled(errors: list[float]) -> bool:
    """Whether the mean error of the last window is hardly lower than that of the one before; asked once a window."""
    if len(errors) % WINDOW_STEPS or len(errors) < 2 * WINDOW_STEPS:
        return False
    before, last = (sum(part) for part in (errors[-2 * WINDOW_STEPS : -WINDOW_STEPS], errors[-WINDOW_STEPS:]))
    return last > (1 - MIN_GAIN) * before
