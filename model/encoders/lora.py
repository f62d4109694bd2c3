"""Low-rank adapters (LoRA) on frozen weights, by peft."""

from torch import nn


def add_lora(model: nn.Module, rank: int, alpha: float, dropout: float) -> None:
    """Freeze a transformer and add adapters to the `qkv` layer of every block, in place; published: 8, 32 and 0.1.

    The second matrix of an adapter is initialized with zeros: at first the output does not change, and the first matrix
    gets its first non-zero gradient in the second step.

    Args:
        rank: columns of the first matrix.
        alpha: factor on the output of an adapter, divided by the rank.
        dropout: probability that an input of an adapter is dropped.

    Raises:
        ValueError: no layer has the name `qkv`.

    Source: reference 1.1.
    """
    from peft import LoraConfig, inject_adapter_in_model

    # type: peft only divides alpha by the rank
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=["qkv"])
    inject_adapter_in_model(config, model)
