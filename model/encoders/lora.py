"""Low-rank adapters (LoRA) on frozen weights, by peft."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn


class LoraSettings(NamedTuple):
    """Settings of the adapters; the defaults are the published ones, on `qkv` of every block. Source: reference 1.1."""

    rank: int = 8
    alpha: float = 32.0
    dropout: float = 0.1
    targets: tuple[str, ...] = ("qkv",)


def add_lora(model: nn.Module, settings: LoraSettings) -> nn.Module:
    """Freeze a model and add adapters to its layers whose names end with one of `settings.targets`, in place.

    The second matrix of an adapter is initialized with zeros: at first the output does not change, and the first matrix
    gets its first non-zero gradient in the second step.

    Raises:
        ValueError: no layer has such a name.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft only divides it by the rank
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
    )
    return inject_adapter_in_model(config, model)
