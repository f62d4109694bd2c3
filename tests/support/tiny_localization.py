"""Small copies of the localization data sets, made in this process, and maps computed from the annotations."""

from pathlib import Path

import numpy as np
import pytest
import torch

from configs.schema import DataConfig, EvalConfig, ModelConfig, ToyWorldConfig
from eval.benchmarks.localization.benchmark import Localization
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
# Metrics of each benchmark.
KEYS = {
    "vggss": {"median/ciou", "median/auc", "adaptive/ciou", "adaptive/auc"},
    "is3": {f"{variant}/{metric}" for variant in ("median", "adaptive") for metric in ("ciou", "auc", "iiou", "iauc")},
    "avsbench_s4": {
        f"{v}/{m}"
        for v in ("median", "adaptive", "threshold_0.5", "best_threshold_test", "best_threshold_val")
        for m in ("miou", "f_score")
    },
    "extended_vggss": {"median/ap", "median/max_f1", "median/ciou"},
}
KEYS |= {
    "flickr_soundnet": KEYS["vggss"],
    "is3_masks": KEYS["is3"],
    "avsbench_ms3": KEYS["avsbench_s4"],
    "extended_flickr": KEYS["extended_vggss"],
}


def write_localization_sets(root: Path, seed: int = 0) -> Path:
    """Write all data sets below `root`, as the toy world does."""
    config = ToyWorldConfig(out=str(root), seed=seed, image_size_px=SIZE_PX)
    parts = localization.COUNTS
    rows = {part: [layouts.make_item(config, part, number) for number in range(count)] for part, count in parts.items()}
    for name, text in localization.tables(rows).items():
        write(root / name, text.encode())
    return root


def untrained_model() -> DenseAV:
    """A model with random weights, always the same."""
    torch.manual_seed(0)
    return build_denseav(CONFIG, InputSpec(SIZE_PX, 2.4, RATE_HZ)).eval()


def data_settings(root: Path) -> dict[str, str]:
    """Command-line settings of the folders."""
    return {f"data.{name}.root": str(root / name) for name in FOLDERS}


def benchmark(root: Path, name: str, batch_size: int = 7, upsampler: str = "bilinear") -> Localization:
    """One benchmark on a copy."""
    data = {folder: DataConfig(root=str(root / folder)) for folder in FOLDERS}
    config = EvalConfig(benchmarks=[name], batch_size=batch_size, data=data, upsampler=upsampler)
    built = build_benchmarks(config)[name]
    assert isinstance(built, Localization)
    return built


def oracle(items) -> torch.Tensor:
    """Maps equal to the regions, brighter towards the middle so that any number of pixels can be kept.

    They are dark where nothing is in view.
    """
    ramp = 1 - torch.from_numpy(np.hypot(*np.mgrid[-1:1:224j, -1:1:224j])).float() / 10
    return torch.stack([item.region() * ramp for item in items])


def anti_oracle(items) -> torch.Tensor:
    """Maps that are bright outside the regions, and brightest where nothing is in view."""
    return (
        torch.stack([(1 - (item.region() > 0).float()) * (1 if item.in_view else 2) for item in items])
        + torch.rand(len(items), 224, 224) / 100
    )


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    """The folder of all data sets."""
    return write_localization_sets(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def untrained() -> DenseAV:
    """A model with random weights."""
    return untrained_model()
