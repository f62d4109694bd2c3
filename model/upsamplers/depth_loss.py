"""The scale- and shift-invariant loss of depth probes (MiDaS).

Source: reference 4.1.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def scale_and_shift(
    prediction: Float[Tensor, "B H W"], target: Float[Tensor, "B H W"], mask: Float[Tensor, "B H W"]
) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
    """Least squares of `scale * prediction + shift` against the target; 0 where no pixel is valid.

    Args:
        mask: 1 = valid.
    """
    a00, a01, a11 = ((mask * part).sum(dim=(1, 2)) for part in (prediction**2, prediction, torch.ones_like(mask)))
    b0, b1 = ((mask * part).sum(dim=(1, 2)) for part in (prediction * target, target))
    determinant = a00 * a11 - a01 * a01
    is_solvable = determinant != 0
    divisor = torch.where(is_solvable, determinant, 1)
    scale, shift = (a11 * b0 - a01 * b1) / divisor, (a00 * b1 - a01 * b0) / divisor
    return torch.where(is_solvable, scale, 0), torch.where(is_solvable, shift, 0)


def scale_shift_invariant_loss(
    prediction: Float[Tensor, "B H W"],
    target: Float[Tensor, "B H W"],
    mask: Float[Tensor, "B H W"],
    alpha: float = 0.5,
    scales: int = 4,
) -> Float[Tensor, ""]:
    """Squared error after the best scale and shift, and `alpha` times differences of gradients at several scales.

    Args:
        mask: 1 = valid.
    """
    scale, shift = scale_and_shift(prediction, target, mask)
    difference = mask * (scale[:, None, None] * prediction + shift[:, None, None] - target)
    loss = (difference**2).sum() / (2 * mask.sum()).clamp(min=1)
    for level in range(scales if alpha else 0):
        step = 2**level
        error, valid = difference[:, ::step, ::step], mask[:, ::step, ::step]
        columns = error.diff(dim=2).abs() * valid[:, :, 1:] * valid[:, :, :-1]
        rows = error.diff(dim=1).abs() * valid[:, 1:] * valid[:, :-1]
        loss = loss + alpha * (columns.sum() + rows.sum()) / valid.sum().clamp(min=1)
    return loss
