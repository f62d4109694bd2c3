"""FeatUp checkpoints in the published layout, with weights by the rule of the golden cases."""

import json

import torch
from paths import GOLDEN

from eval.parity.released_upsampler import generated

LAYOUT = json.loads((GOLDEN / "featup/featup_released_layout.json").read_text())


def checkpoint(name, use_norm, backbone=True):
    """Content of the file of a model; weights of the frozen encoder are expanded scalars."""
    model = LAYOUT["models"][name]
    variant = model["variants"]["norm" if use_norm else "no_norm"]
    state = {key: generated(key, shape) for key, shape in variant["keys"].items()}
    if backbone:
        shapes = LAYOUT["backbones"][model["backbone_keys"]]
        state |= {variant["backbone_prefix"] + key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    return {"state_dict": state, "epoch": 0, "global_step": 100}


def write(path, name, use_norm):
    """Write the file of a model."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint(name, use_norm), path)
    return path
