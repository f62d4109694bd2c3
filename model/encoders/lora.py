"""Low-rank adapters beside frozen weights, by peft."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn


class LoraSettings(NamedTuple):
    """The published ones are rank 8, alpha 32, dropout 0.1 on `qkv` of every block. Source: reference 1.1."""

    rank: int = 8
    alpha: float = 32.0
    dropout: float = 0.1
    targets: tuple[str, ...] = ("qkv",)


def add_lora(model: nn.Module, settings: LoraSettings) -> nn.Module:
    """Freeze a model and put adapters on its layers whose names end with one of `settings.targets`; changes and returns the model.

    The second matrix of an adapter starts at zero, so the model computes what it did before, and the first gets its first gradient in the second step.

    Raises:
        ValueError: no layer has such a name.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=list(settings.targets)
    )
    return inject_adapter_in_model(config, model)
