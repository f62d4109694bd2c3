"""torch.compile of the encoders in place: the names of weights do not change."""

import os
import shutil

import torch

from model.denseav import DenseAV
from model.training.fsdp import is_sharded


def compile_encoders(model: DenseAV) -> None:
    """Compile both encoders at their first forward pass, and again when a phase freezes other parameters.

    Outputs differ by rounding. Scores and losses are not compiled: they have kernels of their own
    (model.similarity.fused).

    Raises:
        ValueError: the machine has no C++ compiler.
    """
    compilers = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    if not any(map(shutil.which, compilers)):
        raise ValueError(
            f"compile=true: this machine has no C++ compiler ({', '.join(compilers)}); install one or set compile=false"
        )
    for encoder in (model.image_encoder, model.audio_encoder):
        if is_sharded(model):  # layer by layer: gathering weights would break a larger graph
            for layer in encoder.blocks:
                # Fixed shapes, so that grad_cache_chunk_size gets the same graph again in the backward pass.
                layer.forward = torch.compile(layer.forward, dynamic=False)
        else:
            encoder.compile()
