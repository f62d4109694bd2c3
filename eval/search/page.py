"""Results of a query as one self-contained HTML page: frames with the heatmap of the query, and players.

A sound that finds pictures is laid as a heatmap over each of them; a picture that finds sounds is shown once for each,
with the heatmap of that sound. Heatmaps come from the stored features. Frames and sounds are read again from the media
that the index names; a result whose media are gone is shown without them.
"""

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import markupsafe
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from configs.errors import CommandFailed, UsageError
from eval.report.figures import data_uri, jpeg_bytes, overlay, upscale_integer
from eval.search.compression import restore_audio, restore_image
from eval.search.media import read_windows
from eval.search.query import Query, window_weights
from eval.search.results import describe_query
from eval.search.searcher import Match, Searcher
from eval.search.store import IndexedClip
from model.features import AudioFeatures, ImageFeatures, map_tensors
from model.inputs import InputSpec
from model.upsamplers.interpolation import resize_maps
from pipelines.stream.augment import resize_center_crop
from pipelines.stream.index import DatasetIndex
from pipelines.stream.reader import ClipReader, UnreadableClip

WIDTH_PX = 288
MAX_AUDIO_S = 30


class ClipMedia(NamedTuple):
    """What a result shows: the frame as it was indexed, and the sound; None where there is none."""

    pixels: UInt8[Tensor, "3 S_px S_px"] | None
    waveform: Float[np.ndarray, "S"] | None


def render_page(searcher: Searcher, query: Query, matches: Sequence[Match], where: str, show_paths: bool = True) -> str:
    """The page.

    Args:
        searcher: that found the matches.
        query: what was searched with.
        matches: best first, found with re-ranking or without.
        where: the filter as it was written; empty: none.
        show_paths: whether the page names the index and the media of clips by their paths.
    """
    media, inputs = MediaReader(searcher.model.inputs), searcher.model.inputs
    stored = {clip.id: clip for clip in searcher.store.dense([match.clip.id for match in matches])}
    cards = []
    for rank, match in enumerate(matches, start=1):
        shown = media.read(match.clip)
        images = _images(searcher, query, stored[match.clip.id], shown)
        audio = _audio_uri(shown.waveform, inputs.sample_rate_hz)
        cards.append({"rank": rank, "match": match, "clip": match.clip, "images": images, "audio": audio})
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(_package_file("page.html.j2")).render(
        style=markupsafe.Markup(_package_file("page.css")),
        query=query,
        query_image="" if query.pixels is None else _image_uri(_array(query.pixels)),
        query_audio=_audio_uri(query.waveform, query.sample_rate_hz),
        description=describe_query(query),
        index=searcher.store.address,
        where=where,
        show_paths=show_paths,
        cards=cards,
    )


class MediaReader:
    """Reads the frame and the sound of stored clips from the media that they name.

    Args:
        inputs: of the model.
    """

    def __init__(self, inputs: InputSpec) -> None:
        self._inputs = inputs
        self._reader = cache(self._open)

    def read(self, clip: IndexedClip) -> ClipMedia:
        """Frame and sound of a clip; None for what cannot be read any more."""
        try:
            return self._read_file(clip) if clip.number < 0 else self._read_shards(clip)
        except (UsageError, CommandFailed, UnreadableClip, OSError):
            return ClipMedia(None, None)

    def _read_shards(self, clip: IndexedClip) -> ClipMedia:
        reader = self._reader(clip.media)
        if clip.number >= reader.index.clips or not clip.id.endswith(f"/{reader.index.id(clip.number)}"):
            raise UsageError(f"{clip.media} was built again after it was indexed")
        pixels = resize_center_crop(reader.frame(clip.number, clip.frame), self._inputs.image_size_px)
        return ClipMedia(pixels, reader.waveform(clip.number))

    def _read_file(self, clip: IndexedClip) -> ClipMedia:
        for window in read_windows(Path(clip.media), self._inputs):
            if window.start_s >= clip.start_s:
                pixels = window.frame
                if pixels is not None:
                    pixels = resize_center_crop(pixels, self._inputs.image_size_px)
                return ClipMedia(pixels, window.waveform)
        raise UsageError(f"{clip.media} is shorter than when it was indexed")

    def _open(self, folder: str) -> ClipReader:
        return ClipReader(DatasetIndex.open(folder), *self._inputs)


def _images(searcher: Searcher, query: Query, clip: IndexedClip, shown: ClipMedia) -> list[dict[str, Any]]:
    """Panels of a result: its frame, with the heatmap of the query's sound; the query's picture with its heatmap."""
    panels, layout = [], searcher.layout
    if shown.pixels is not None:
        panels.append({"uri": _image_uri(_array(shown.pixels)), "text": "frame"})
        if query.audio is not None and clip.image:
            heat = query_heatmap(searcher, restore_image([clip.image], layout), query.audio, shown.pixels.shape[-1])
            panels.append({"uri": _overlay_uri(shown.pixels, heat), "text": "heatmap of the query's sound"})
    if query.pixels is not None and query.image is not None and clip.audio:
        audio = restore_audio([clip.audio], layout)
        heat = query_heatmap(searcher, query.image, audio, query.pixels.shape[-1])
        panels.append({"uri": _overlay_uri(query.pixels, heat), "text": "heatmap of this sound in the query"})
    return panels


@torch.inference_mode()
def query_heatmap(
    searcher: Searcher, image: ImageFeatures, audio: AudioFeatures, size_px: int
) -> Float[np.ndarray, "S_px S_px"]:
    """The heatmap of a sound of any number of windows in one image, scaled to 0 to 1."""
    rows = map_tensors(image, lambda tensor: tensor.expand(len(audio.mask), *tensor.shape[1:]))
    maps = searcher.model.heatmap(rows, audio)
    heat = torch.einsum("w,whv->hv", window_weights(audio), maps)
    heat = resize_maps(heat[None], (size_px, size_px))[0]
    return ((heat - heat.min()) / (heat.max() - heat.min()).clamp(min=1e-12)).numpy()


def _overlay_uri(pixels: UInt8[Tensor, "3 S_px S_px"], heat: Float[np.ndarray, "S_px S_px"]) -> str:
    frame = upscale_integer(_array(pixels), WIDTH_PX)
    return _image_uri(overlay(frame, upscale_integer(heat, WIDTH_PX)))


def _image_uri(pixels: UInt8[np.ndarray, "S_px S_px 3"]) -> str:
    return data_uri("image/jpeg", jpeg_bytes(upscale_integer(pixels, WIDTH_PX)))


def _audio_uri(waveform: Float[np.ndarray, "S"] | None, rate_hz: int) -> str:
    """The first MAX_AUDIO_S of a sound as MP3; empty for none."""
    import soundfile

    if waveform is None or not len(waveform):
        return ""
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform[: MAX_AUDIO_S * rate_hz], rate_hz, format="MP3")
    return data_uri("audio/mpeg", buffer.getvalue())


def _array(pixels: UInt8[Tensor, "3 S_px S_px"]) -> UInt8[np.ndarray, "S_px S_px 3"]:
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())


def _package_file(name: str) -> str:
    path = Path(__file__).with_name(name)
    try:
        return path.read_text()
    except OSError as error:
        raise CommandFailed(f"{path}: {error.strerror}; the installation is incomplete, install it again") from None
