"""Settings of `python -m eval.ablate`."""

from dataclasses import dataclass

from configs.field import field


@dataclass
class VariantConfig:
    name: str = field("", "row of the table and folder of its runs")
    overrides: list[str] = field(list, "training settings of this variant, such as model.similarity_aggregation=sisa")


@dataclass
class AblateConfig:
    train: str = field("", "training config (YAML)")
    evaluate: str = field("", "evaluation config (YAML); its baselines, requirements and video are ignored")
    accelerate: str = field(
        "configs/accelerate/cpu.yaml",
        "Accelerate config: a file of configs/accelerate, or one that `accelerate config` wrote",
    )
    out: str = field("", "output folder of all runs, ablation.json and ablation.md")
    seeds: list[int] = field(list, "seeds with which each variant is trained")
    base_overrides: list[str] = field(list, "training settings of all variants, such as steps=200")
    variants: list[VariantConfig] = field(list, "variants to compare; the first is the reference")
    metrics: list[str] = field(list, "columns of the table, keys of metrics.json: task/variant/metric")
