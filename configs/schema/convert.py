"""Settings of `python -m model.convert` and `python -m model.export`."""

from dataclasses import dataclass

from configs.field import field


@dataclass
class ConvertConfig:
    source: str = field("", "released weights: .ckpt or .safetensors")
    out: str = field("", "output folder of config.json and model.safetensors")
    num_heads: int = field(0, "number of heads K; 0: as stored in a .ckpt", min=0)


@dataclass
class ExportConfig:
    checkpoint: str = field("", "run folder (its newest checkpoint), step folder, or checkpoints/best of a run")
    out: str = field("", "output folder of config.json and model.safetensors, which from_pretrained reads")
