"""torch.compile of the encoders, in place: names of weights, checkpoints and wrappers stay what they were."""

from __future__ import annotations

import os
import shutil

import torch

from model.denseav import DenseAV
from model.training.fsdp import is_sharded, layers


def compile_encoders(model: DenseAV) -> None:
    """Compile both encoders at their first forward pass, anew when a phase freezes other parameters. What they give differs by rounding.

    Scores and losses stay as they are: their kernels are written by hand (model.similarity.fused).

    Raises:
        ValueError: the machine has no compiler.
    """
    compilers = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    if not any(map(shutil.which, compilers)):
        raise ValueError(
            f"compile=true: this machine has no C++ compiler ({', '.join(compilers)}); install one, or allowed is compile=false"
        )
    for encoder in (model.image_encoder, model.audio_encoder):
        if is_sharded(model):  # layer by layer: gathering them would break every graph
            for layer in layers(
                encoder
            ):  # of fixed shapes, for grad_cache_chunk_size has to get the same graph again in the backward pass
                layer.forward = torch.compile(layer.forward, dynamic=False)
        else:
            encoder.compile()
