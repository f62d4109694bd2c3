"""Settings of `python -m eval.ablate`."""

from __future__ import annotations

from dataclasses import dataclass

from configs.field import setting


@dataclass
class VariantConfig:
    name: str = setting("", "row of the table, and folder of its runs")
    overrides: list[str] = setting(
        list, "settings of training in which it differs, as on the command line: model.similarity_aggregation=sisa"
    )


@dataclass
class AblateConfig:
    train: str = setting("", "settings of training, a YAML file")
    evaluate: str = setting(
        "", "settings of the evaluation, a YAML file; of its baselines, requirements and video nothing is measured"
    )
    accelerate: str = setting(
        "configs/accelerate/cpu.yaml",
        "on which machine: a file of configs/accelerate, or one that `accelerate config` wrote",
    )
    out: str = setting("", "folder of all runs, ablation.json and ablation.md")
    seeds: list[int] = setting(list, "each variant is trained with each")
    base_overrides: list[str] = setting(list, "settings of training for all variants: steps=200")
    variants: list[VariantConfig] = setting(list, "what is compared; the others are compared with the first")
    metrics: list[str] = setting(list, "columns of the table, keys of metrics.json: task/variant/metric")
