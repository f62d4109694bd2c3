"""The jobs of the page: what a child of the worker computes from uploads, with limits on their size.

The server imports this file too, so everything heavy is imported where it is used.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from configs.errors import UsageError

if TYPE_CHECKING:
    from eval.inference.stream_maps import Video
    from eval.inference.video_reader import VideoReader
    from eval.render.drawing import View
    from model.denseav import DenseAV

VIDEO, FEATURES, RESULTS = "localized.mp4", "features.png", "results.html"
TIMELINE_FPS = 5.0
_FEATURES_PX = 768  # long side of the picture of features


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

    @property
    def max_pixels(self) -> int:
        """Maximum size of a picture or video frame in pixels."""
        return int(self.max_megapixels * 1e6)


@dataclass(frozen=True)
class LocalizeVideo:
    """Renders a view of a video with sound, and measures the similarity over time."""

    model: int
    video: str
    view: str
    head: int | None = None

    def run(self, model: "DenseAV", folder: Path, limits: Limits) -> dict[str, Any]:
        """Write VIDEO; returns the arguments of timeline_html, and a note."""
        from eval.render.render import render_video

        with _open_media(self.video, limits) as video:
            note = render_video(model, video, folder / VIDEO, cast("View", self.view), self.head).note
            has_both = video.has_video and video.has_audio
            return {"note": note, **(similarity_over_time(model, video) if has_both else {})}


@dataclass(frozen=True)
class LocalizeImage:
    """Renders a view of a picture with a sound as a video, and measures the similarity over time."""

    model: int
    image: str
    sound: str
    view: str
    head: int | None = None

    def run(self, model: "DenseAV", folder: Path, limits: Limits) -> dict[str, Any]:
        """Write VIDEO; returns the arguments of timeline_html, and a note."""
        from eval.render.render import render_image
        from eval.render.still import StillVideo, read_image

        picture = read_image(self.image, limits.max_pixels)
        with _open_media(self.sound, limits) as sound:
            if not sound.has_audio:
                raise UsageError(f"{sound.path} has no sound")
            note = render_image(model, picture, sound, folder / VIDEO, cast("View", self.view), self.head).note
            return {"note": note, **similarity_over_time(model, StillVideo(picture, sound))}


@dataclass(frozen=True)
class Features:
    """Draws the image features of a picture: their first three principal components as red, green and blue."""

    model: int
    image: str

    def run(self, model: "DenseAV", folder: Path, limits: Limits) -> dict[str, Any]:
        """Write FEATURES."""
        import numpy as np
        from PIL import Image

        from eval.inference.stream_maps import encode_frames
        from eval.render.pca import fit_pca
        from eval.render.still import read_image

        picture = read_image(self.image, limits.max_pixels)
        pca, features = fit_pca(model, _Still(picture)), encode_frames(model, [picture]).dense.flatten(1, 2)
        assert pca.image is not None, "a picture has image features"
        colors = pca.colors(features, pca.image)[0]
        cells = Image.fromarray((np.clip(colors, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0))
        scale = _FEATURES_PX / max(picture.shape[:2])
        size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
        cells.resize(size, Image.Resampling.BICUBIC).save(folder / FEATURES)
        return {"cells": list(cells.size)}


@dataclass(frozen=True)
class Search:
    """Finds clips of an index by a sound, picture or video."""

    model: int
    query: str
    index: str

    def run(self, model: "DenseAV", folder: Path, limits: Limits) -> dict[str, Any]:  # noqa: ARG002
        """Write RESULTS."""
        from eval.search.build import check_model
        from eval.search.lance_store import LanceStore
        from eval.search.page import render_page
        from eval.search.searcher import Searcher

        store = LanceStore.open(self.index)
        check_model(store.settings, model, self.index, "of this page")
        searcher = Searcher(store, model)
        query = searcher.read_query(Path(self.query))
        matches = searcher.search(query)
        (folder / RESULTS).write_text(render_page(searcher, query, matches, ""))
        return {"found": len(matches)}


Job = LocalizeVideo | LocalizeImage | Features | Search


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
    import eval.render.render  # noqa: F401
    from model.hub import load_pretrained

    models = []
    for checkpoint in checkpoints:
        model = load_pretrained(checkpoint, device="cpu").model  # CUDA does not survive a fork either
        models.append(LoadedModel(model, {"name": checkpoint, "heads": model.num_heads}))
    return models


def run_job(models: Sequence[LoadedModel], job: Job, folder: Path, limits: Limits) -> dict[str, Any]:
    """Run a job; files of the result are written into the folder.

    Raises:
        UsageError: the upload cannot be used; the message is for the user.
    """
    import torch

    try:
        model = models[job.model].model
        if torch.cuda.is_available():
            model.to("cuda")
        with torch.inference_mode():
            result = job.run(model, folder, limits)
    except UsageError as error:
        raise UsageError(_without_folders(str(error), job)) from None
    return {**result, "note": _without_folders(result.get("note", ""), job)}


def _without_folders(message: str, job: Job) -> str:
    """A message with the names of uploads in place of their paths on the server."""
    for path in filter(None, (getattr(job, name, None) for name in ("video", "image", "sound", "query"))):
        message = message.replace(path, Path(path).name)
    return message


def similarity_over_time(model: "DenseAV", video: "Video") -> dict[str, Any]:
    """The largest value of each head's heatmap, about TIMELINE_FPS times per second, and the heads' colors."""
    from eval.inference.stream_maps import stream_maps
    from eval.render.views import HEAD_RGB

    maps = [(moment.time_s, moment.by_head.max(axis=(1, 2))) for moment in stream_maps(model, video, TIMELINE_FPS)]
    heads = range(min(model.num_heads, len(HEAD_RGB)))
    return {
        "times_s": [time_s for time_s, _ in maps],
        "similarity": [[float(values[head]) for _, values in maps] for head in heads],
        "colors": [HEAD_RGB[head] for head in heads],
        "duration_s": video.duration_s,
    }


def _open_media(path: str, limits: Limits) -> "VideoReader":
    from eval.inference.video_reader import VideoReader

    return VideoReader(path, max_pixels=limits.max_pixels, max_duration_s=limits.max_duration_s)


class _Still:
    """A picture as a video of one frame without audio (see eval.inference.stream_maps.Video)."""

    duration_s, has_audio = 0.0, False

    def __init__(self, picture: Any) -> None:
        self._picture = picture

    def frames(self, max_fps: float | None = None) -> Iterator[tuple[float, Any]]:  # noqa: ARG002
        """The picture."""
        yield 0.0, self._picture

    def audio_blocks(self, rate_hz: int, samples: int) -> Iterator[Any]:  # noqa: ARG002
        """Nothing."""
        return iter(())
