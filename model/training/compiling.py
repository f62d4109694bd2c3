"""torch.compile of the encoders, in place: names of weights, checkpoints and wrappers stay what they were."""

from __future__ import annotations

import os
import shutil

from configs.command import UsageError
from model.grounding.denseav import DenseAV


def compile_encoders(model: DenseAV) -> None:
    """Compile both encoders at their first forward pass, anew when a phase freezes other parameters. What they give differs by rounding.

    Scores and losses stay as they are: their kernels are written by hand (model.grounding.fused).

    Raises:
        UsageError: the machine has no compiler.
    """
    compilers = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    if not any(map(shutil.which, compilers)):
        raise UsageError(f"compile=true: this machine has no C++ compiler ({', '.join(compilers)}); install one, or allowed is compile=false")
    model.image_encoder.compile()
    model.audio_encoder.compile()
