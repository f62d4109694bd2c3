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

from configs.command import RunFailed, UsageError
from model.collectives import sum_over_ranks
from model.grounding.contrast import scale_of
from model.training.step import StepOutput

ACTIONS = ("stop", "skip")
# With as many steps one after the other it is not single clips that are broken, but the model.
MOST_IN_A_ROW = 10


class NonfiniteGuard:
    """Looks at the loss before it reaches the weights.

    Args:
        folder: of the run; reports go there.
        action: `stop` or `skip`.

    Attributes:
        skipped: steps left out so far, by this process.

    Raises:
        UsageError: another action.
    """

    def __init__(self, folder: Path, action: str) -> None:
        if action not in ACTIONS:
            raise UsageError(f"on_nonfinite={action}: allowed are {', '.join(ACTIONS)}")
        self.folder, self.action, self.skipped = folder, action, 0
        self._last_step, self._in_a_row = 0, 0

    def leaves_out(self, step: int, output: StepOutput, ids: Sequence[str], lr: float) -> bool:
        """Whether the step must not be made: the same answer on every rank, all of which have to ask.

        Args:
            step: its number, from 1.
            output: of the forward pass.
            ids: of this rank's clips.
            lr: the learning rate, for the report.

        Raises:
            RunFailed: the loss is not finite on some rank, and the run is to stop, or MOST_IN_A_ROW steps in a row were left out.
        """
        from accelerate import PartialState

        if not sum_over_ranks((~output.loss.isfinite()).float()):
            return False
        report = self._report(step, output, ids, lr)
        self._in_a_row = self._in_a_row + 1 if step == self._last_step + 1 else 1
        self._last_step = step
        self.skipped += 1
        if self.action == "stop":
            raise RunFailed(f"{_message(step, output, ids)}; {report} tells more; on_nonfinite=skip leaves out such steps")
        if self._in_a_row == MOST_IN_A_ROW:
            raise RunFailed(f"{_message(step, output, ids)}; these are {MOST_IN_A_ROW} such steps in a row; {report} tells more")
        if PartialState().is_main_process:
            print(f"warning: {_message(step, output, ids)}; the step is left out, {report} tells more", file=sys.stderr)
        return True

    def _report(self, step: int, output: StepOutput, ids: Sequence[str], lr: float) -> Path:
        """Write what is known of the step, of all ranks, and return where."""
        from accelerate import PartialState
        from accelerate.utils import gather_object

        features = {"image": _extent(output.inputs.image), "audio": _extent(output.inputs.audio)}
        ranks = gather_object([{"clips": list(ids), "features": features}])
        path = self.folder / f"nonfinite_step_{step:08d}.json"
        if PartialState().is_main_process:
            told = {
                "step": step,
                "loss": _told(output.loss.item()),
                "terms": {name: _told(term.item()) for name, term in output.terms.items()},
                "scale": _told(scale_of(output.inputs.calibration.log_scale).item()),
                "lr": lr,
                "ranks": ranks,
            }
            path.write_text(json.dumps(told, indent=2) + "\n")
        return path


def _message(step: int, output: StepOutput, ids: Sequence[str]) -> str:
    terms = ", ".join(f"{name}={term.item():g}" for name, term in output.terms.items() if not term.isfinite())
    return f"step {step}: the loss is {output.loss.item():g} ({terms or 'every term is finite'}); clips {', '.join(ids)}"


def _extent(features: Shaped[Tensor, "..."]) -> dict[str, Any]:
    """How many of the numbers are none, and the largest magnitude of the others."""
    finite = features.isfinite()
    return {"not_finite": int((~finite).sum()), "largest": features.abs().where(finite, 0).amax().item()}


def _told(value: float) -> float | str:
    """JSON knows no NaN and no infinity."""
    return value if math.isfinite(value) else str(value)
