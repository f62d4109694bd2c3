"""The jobs of the page: what a child of the worker computes from uploads, with limits on their size.

The server imports this file too, so everything heavy is imported where it is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from configs.errors import UsageError

if TYPE_CHECKING:
    from eval.inference.video_reader import VideoReader
    from eval.render.drawing import View
    from model.denseav import DenseAV

VIDEO, FEATURES, RESULTS = "localized.mp4", "features.png", "results.html"


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
    upsampler: str = "bilinear"

    def run(self, model: "DenseAV", folder: Path, limits: Limits) -> dict[str, Any]:
        """Write VIDEO; returns the arguments of timeline_html, and a note."""
        from eval.app.similarity import Similarity
        from eval.render.render import render_video

        similarity, view = Similarity(model), cast("View", self.view)
        with _open_media(self.video, limits) as video:
            out, add = folder / VIDEO, similarity.add
            note = render_video(model, video, out, view, self.head, self.upsampler, on_moments=add).note
            has_both = video.has_video and video.has_audio
            return {"note": note, **(similarity.timeline(video) if has_both else {})}


@dataclass(frozen=True)
class LocalizeImage:
    """Renders a view of a picture with a sound as a video, and measures the similarity over time."""

    model: int
    image: str
    sound: str
    view: str
    head: int | None = None
    upsampler: str = "bilinear"

    def run(self, model: "DenseAV", folder: Path, limits: Limits) -> dict[str, Any]:
        """Write VIDEO; returns the arguments of timeline_html, and a note."""
        from eval.app.similarity import Similarity
        from eval.render.render import render_image
        from eval.render.still import StillVideo, read_image

        similarity, view = Similarity(model), cast("View", self.view)
        picture = read_image(self.image, limits.max_pixels)
        with _open_media(self.sound, limits) as sound:
            if not sound.has_audio:
                raise UsageError(f"{sound.path} has no sound")
            out, add = folder / VIDEO, similarity.add
            note = render_image(model, picture, sound, out, view, self.head, self.upsampler, on_moments=add).note
            return {"note": note, **similarity.timeline(StillVideo(picture, sound))}


@dataclass(frozen=True)
class Features:
    """Draws the features of a picture: their first three principal components as red, green and blue.

    Attributes:
        model: number of the model; its image features are drawn if `encoder` is empty.
        image: the upload.
        encoder: an image encoder by itself, by a name of model.encoders.registry; empty: the model.
        is_random: whether the encoder has random weights instead of its pre-trained ones.
        upsampler: of the features; empty: they are drawn on their grid.
    """

    model: int
    image: str
    encoder: str = ""
    is_random: bool = False
    upsampler: str = ""

    def run(self, model: "DenseAV", folder: Path, limits: Limits) -> dict[str, Any]:
        """Write FEATURES."""
        from eval.app.features import draw_features, encoder_features, upsampled_features
        from eval.inference.stream_maps import encode_frames
        from eval.render.still import read_image

        picture = read_image(self.image, limits.max_pixels)
        if self.encoder:
            features = encoder_features(self.encoder, self.is_random, picture)
        else:
            features = encode_frames(model, [picture]).dense.flatten(1, 2)[0]
        if self.upsampler:
            features = upsampled_features(features, self.upsampler, picture)
        draw_features(features, picture.shape[:2]).save(folder / FEATURES)
        return {"cells": list(features.shape[1:])}


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
        (folder / RESULTS).write_text(render_page(searcher, query, matches, "", show_paths=False))
        return {"found": len(matches)}


Job = LocalizeVideo | LocalizeImage | Features | Search


class LoadedModel(NamedTuple):
    """A model, and what the page needs to know about it: name, number of heads."""

    model: "DenseAV"
    info: dict[str, Any]


def load_models(checkpoints: Sequence[str], upsamplers: Sequence[str]) -> list[LoadedModel]:
    """Load the models, import what the jobs need, so that their processes start fast, and check the upsamplers.

    Raises:
        ValueError: a checkpoint or an upsampler cannot be loaded.
    """
    import torch

    torch.set_num_threads(1)  # no thread pool before the fork
    import eval.render.render  # noqa: F401
    from model.hub import load_pretrained
    from model.upsamplers.load import load_upsampler

    for name in upsamplers:
        load_upsampler(name, "upsamplers")
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


def _open_media(path: str, limits: Limits) -> "VideoReader":
    from eval.inference.video_reader import VideoReader

    return VideoReader(path, max_pixels=limits.max_pixels, max_duration_s=limits.max_duration_s)
