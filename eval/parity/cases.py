"""Read a golden case, compute its outputs, and measure the largest absolute difference from the stored ones."""

import json
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from configs.errors import UsageError
from eval.parity.registry import KINDS

MIN_SCALE = 1e-3  # of relative differences


class Outcome(NamedTuple):
    """The result of one case: `difference` is inf when an output is missing or has another number of elements."""

    kind: str
    case: str
    difference: float
    tolerance: float

    @property
    def verdict(self) -> str:
        """`ok` or `MISS`."""
        return "ok" if self.difference <= self.tolerance else "MISS"


def check_folder(folder: Path) -> list[Outcome]:
    """Compute every case of a folder, in the order of kind and name.

    Raises:
        UsageError: the folder holds no case, or a file that is not a case.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UsageError(f"{folder}: contains no NAME.safetensors; give a folder of golden cases")
    return sorted(map(check_case, files), key=lambda outcome: (list(KINDS).index(outcome.kind), outcome.case))


def check_case(file: Path) -> Outcome:
    """Compute one case.

    Raises:
        UsageError: not a golden case, or of an unknown kind.
    """
    try:
        with safe_open(file, "pt") as stored:
            case = json.loads(stored.metadata()["case"])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        name, params = case["kind"], case["params"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file}: not a golden case ({type(error).__name__}: {error})") from None
    if not isinstance(name, str) or name not in KINDS:
        raise UsageError(f"{file}: unknown kind {name!r}, allowed are {', '.join(KINDS)}")
    expected = {key.removeprefix("out."): tensor for key, tensor in tensors.items() if key.startswith("out.")}
    if not expected:
        raise UsageError(f"{file}: not a golden case (it has no tensor out.NAME to compare with)")
    inputs = {key.removeprefix("in."): tensor for key, tensor in tensors.items() if not key.startswith("out.")}
    kind = KINDS[name]
    if kind.companion:
        params = params | {"keys": _read_companion(file, kind.companion)}
    scale = {key: kind.tolerance / kind.output_tolerances.get(key, kind.tolerance) for key in expected}
    try:
        differences = [
            scale[key] * _difference(outputs.get(key), tensor, kind.is_relative)
            for outputs in kind.compute(params, inputs)
            for key, tensor in expected.items()
        ]
    except Exception as error:  # a case that fails is a miss; the remaining cases are still computed
        print(f"{file}: {type(error).__name__}: {' '.join(str(error).split())[:300]}", file=sys.stderr)
        differences = [math.inf]
    return Outcome(name, file.stem, max(differences), kind.tolerance)


def _read_companion(file: Path, name: str) -> Any:
    try:
        return json.loads(file.with_name(name).read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{file.with_name(name)}, which {file.name} needs, cannot be read ({error})") from None


def _difference(computed: Tensor | float | None, expected: Tensor, is_relative: bool) -> float:
    if computed is None:
        return math.inf
    computed = torch.as_tensor(computed).detach().double()
    if computed.numel() != expected.numel():
        return math.inf
    difference = (computed.reshape(expected.shape) - expected.double()).abs().nan_to_num(nan=math.inf).max().item()
    if not is_relative:
        return difference
    if not expected.is_floating_point():
        return math.inf if difference else 0.0
    return difference / max(MIN_SCALE, expected.abs().max().item())
