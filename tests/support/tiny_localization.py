"""Twins of the localisation sets made in this process, and maps that know the answer."""

from pathlib import Path

import numpy as np
import torch

from configs.schema import EvalConfig, ModelConfig, ToyWorldConfig
from eval.benchmarks.registry import build_benchmarks
from model.build import build_denseav
from model.denseav import DenseAV, InputSpec
from pipelines.toy_world import layouts, localization
from pipelines.toy_world.media import write

SIZE_PX, RATE_HZ = 64, 16000
CONFIG = ModelConfig(embed_dim=16, num_heads=2, audio_projection="linear", image_pool_size=1)
NAMES = [
    "vggss",
    "flickr_soundnet",
    "is3",
    "is3_masks",
    "avsbench_s4",
    "avsbench_ms3",
    "extended_vggss",
    "extended_flickr",
]
FOLDERS = ["vggss", "flickr_soundnet", "is3", "avsbench", "extended_vggss", "extended_flickr"]


def make_twins(root: Path, seed: int = 0) -> Path:
    """All sets below `root`, as the toy world writes them."""
    config = ToyWorldConfig(out=str(root), seed=seed, image_size_px=SIZE_PX)
    parts = localization.COUNTS
    rows = {part: [layouts.make_item(config, part, number) for number in range(count)] for part, count in parts.items()}
    for name, text in localization.tables(rows).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write(root / name, text.encode())
    return root


def untrained_model() -> DenseAV:
    """Random weights, the same ones each time."""
    torch.manual_seed(0)
    return build_denseav(CONFIG, InputSpec(SIZE_PX, 2.4, RATE_HZ)).eval()


def folders(root: Path) -> dict[str, str]:
    """The settings that name them."""
    return {key: str(root / key) for key in FOLDERS}


def benchmark(root: Path, name: str, batch_size: int = 7):
    """One benchmark on a twin."""
    return build_benchmarks(EvalConfig(benchmarks=[name], batch_size=batch_size, **folders(root)))[name]


def oracle(items) -> torch.Tensor:
    """The region itself, brighter towards its middle so that any number of pixels can be kept; dim where nothing is in
    view.
    """
    ramp = 1 - torch.from_numpy(np.hypot(*np.mgrid[-1:1:224j, -1:1:224j])).float() / 10
    return torch.stack([item.region() * ramp for item in items])


def anti_oracle(items) -> torch.Tensor:
    """Bright everywhere but there, and sure of it where nothing is in view."""
    return (
        torch.stack([(1 - (item.region() > 0).float()) * (1 if item.in_view else 2) for item in items])
        + torch.rand(len(items), 224, 224) / 100
    )
