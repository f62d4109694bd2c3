"""NaN and infinite losses: report step, terms and clips, then stop the run or skip the step."""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from accelerate.utils import gather_object
from jaxtyping import Shaped
from torch import Tensor

from configs.atomic_write import atomic_open
from configs.errors import CommandFailed
from model.distributed import all_reduce_sum, rank
from model.losses.contrastive import logit_scale
from model.training.step import StepOutput

# After this many in a row the cause is not single clips but the model.
MAX_CONSECUTIVE_SKIPS = 10


class NonfiniteGuard:
    """Checks that the loss is finite before the backward pass.

    Args:
        folder: run folder, for the reports.
        action: on a NaN or infinite loss, `stop` the run or `skip` the step.

    Attributes:
        skipped: number of skipped steps since the process started.
    """

    def __init__(self, folder: Path, action: Literal["stop", "skip"]) -> None:
        self.folder, self.action, self.skipped = folder, action, 0
        self._last_step, self._consecutive = 0, 0

    def should_skip(self, step: int, output: StepOutput, ids: Sequence[str], lr: float) -> bool:
        """Whether to skip a step; the same on every rank, and every rank has to call it.

        Args:
            step: its number, from 1.
            output: of the forward pass.
            ids: of this rank's clips.
            lr: learning rate, for the report.

        Raises:
            CommandFailed: the loss is not finite on some rank, and the action is `stop` or this is the
                MAX_CONSECUTIVE_SKIPS-th such step in a row.
        """
        if not all_reduce_sum((~output.loss.isfinite()).float()):
            return False
        report = self._report(step, output, ids, lr)
        self._consecutive = self._consecutive + 1 if step == self._last_step + 1 else 1
        self._last_step = step
        self.skipped += 1
        message = f"{_message(step, output, ids)}; details in {report}"
        if self.action == "stop":
            raise CommandFailed(f"{message}; nonfinite_loss_action=skip skips such steps")
        if self._consecutive == MAX_CONSECUTIVE_SKIPS:
            raise CommandFailed(f"{message}; {MAX_CONSECUTIVE_SKIPS} such steps in a row")
        if rank() == 0:
            print(f"warning: {message}; the step is skipped", file=sys.stderr)
        return True

    def _report(self, step: int, output: StepOutput, ids: Sequence[str], lr: float) -> Path:
        """Write the clips and features of all ranks to a file; returns its path."""
        features = {"image": _summarize(output.inputs.image.dense), "audio": _summarize(output.inputs.audio.dense)}
        ranks = gather_object([{"clips": list(ids), "features": features}])
        path = self.folder / f"nonfinite_step_{step:08d}.json"
        if rank() == 0:
            report = {
                "step": step,
                "loss": _json_float(output.loss.item()),
                "terms": {name: _json_float(term.item()) for name, term in output.terms.items()},
                "logit_scale": _json_float(logit_scale(output.inputs.logit_scale.log_scale).item()),
                "lr": lr,
                "ranks": ranks,
            }
            with atomic_open(path) as file:
                file.write((json.dumps(report, indent=2) + "\n").encode())
        return path


def _message(step: int, output: StepOutput, ids: Sequence[str]) -> str:
    terms = ", ".join(f"{name}={term.item():g}" for name, term in output.terms.items() if not term.isfinite())
    return (
        f"step {step}: the loss is {output.loss.item():g} ({terms or 'every term is finite'}); clips {', '.join(ids)}"
    )


def _summarize(features: Shaped[Tensor, "..."]) -> dict[str, Any]:
    """The number of values that are not finite, and the largest magnitude of the others."""
    finite = features.isfinite()
    return {"not_finite": int((~finite).sum()), "largest": features.abs().where(finite, 0).amax().item()}


def _json_float(value: float) -> float | str:
    """NaN and infinity as text, which JSON does not have."""
    return value if math.isfinite(value) else str(value)
