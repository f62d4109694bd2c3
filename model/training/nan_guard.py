"""A loss that is no number: told with its step, terms and clips, written down, and then the run stops or, if told to, leaves out the step."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Shaped
from torch import Tensor

from configs.errors import CommandFailed
from model.distributed import all_reduce_sum
from model.losses.contrastive import logit_scale
from model.training.step import StepOutput

ACTIONS = ("stop", "skip")
# With as many steps one after the other it is not single clips that are broken, but the model.
MAX_CONSECUTIVE_SKIPS = 10


class NonfiniteGuard:
    """Looks at the loss before it reaches the weights.

    Args:
        folder: of the run; reports go there.
        action: `stop` or `skip`.

    Attributes:
        skipped: steps left out so far, by this process.

    Raises:
        ValueError: another action.
    """

    def __init__(self, folder: Path, action: str) -> None:
        if action not in ACTIONS:
            raise ValueError(f"nonfinite_loss_action={action}: allowed are {', '.join(ACTIONS)}")
        self.folder, self.action, self.skipped = folder, action, 0
        self._last_step, self._in_a_row = 0, 0

    def should_skip(self, step: int, output: StepOutput, ids: Sequence[str], lr: float) -> bool:
        """Whether the step must not be made: the same answer on every rank, all of which have to ask.

        Args:
            step: its number, from 1.
            output: of the forward pass.
            ids: of this rank's clips.
            lr: the learning rate, for the report.

        Raises:
            CommandFailed: the loss is not finite on some rank, and the run is to stop, or MAX_CONSECUTIVE_SKIPS steps in a row were left out.
        """
        from accelerate import PartialState

        if not all_reduce_sum((~output.loss.isfinite()).float()):
            return False
        report = self._report(step, output, ids, lr)
        self._in_a_row = self._in_a_row + 1 if step == self._last_step + 1 else 1
        self._last_step = step
        self.skipped += 1
        if self.action == "stop":
            raise CommandFailed(
                f"{_message(step, output, ids)}; {report} tells more; nonfinite_loss_action=skip leaves out such steps"
            )
        if self._in_a_row == MAX_CONSECUTIVE_SKIPS:
            raise CommandFailed(
                f"{_message(step, output, ids)}; these are {MAX_CONSECUTIVE_SKIPS} such steps in a row; {report} tells more"
            )
        if PartialState().is_main_process:
            print(f"warning: {_message(step, output, ids)}; the step is left out, {report} tells more", file=sys.stderr)
        return True

    def _report(self, step: int, output: StepOutput, ids: Sequence[str], lr: float) -> Path:
        """Write what is known of the step, of all ranks, and return where."""
        from accelerate import PartialState
        from accelerate.utils import gather_object

        features = {"image": _extent(output.inputs.image.dense), "audio": _extent(output.inputs.audio.dense)}
        ranks = gather_object([{"clips": list(ids), "features": features}])
        path = self.folder / f"nonfinite_step_{step:08d}.json"
        if PartialState().is_main_process:
            told = {
                "step": step,
                "loss": _json_float(output.loss.item()),
                "terms": {name: _json_float(term.item()) for name, term in output.terms.items()},
                "logit_scale": _json_float(logit_scale(output.inputs.logit_scale.log_scale).item()),
                "lr": lr,
                "ranks": ranks,
            }
            path.write_text(json.dumps(told, indent=2) + "\n")
        return path


def _message(step: int, output: StepOutput, ids: Sequence[str]) -> str:
    terms = ", ".join(f"{name}={term.item():g}" for name, term in output.terms.items() if not term.isfinite())
    return (
        f"step {step}: the loss is {output.loss.item():g} ({terms or 'every term is finite'}); clips {', '.join(ids)}"
    )


def _extent(features: Shaped[Tensor, "..."]) -> dict[str, Any]:
    """How many of the numbers are none, and the largest magnitude of the others."""
    finite = features.isfinite()
    return {"not_finite": int((~finite).sum()), "largest": features.abs().where(finite, 0).amax().item()}


def _json_float(value: float) -> float | str:
    """JSON knows no NaN and no infinity."""
    return value if math.isfinite(value) else str(value)
