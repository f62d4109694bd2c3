"""Renders what a model finds in a video, or in an image with a sound.

Two passes, both with flat memory: the first keeps small maps (recording.py), from which the scale of the whole video
follows; the second draws them over the frames and writes the file. A file without sound is shown with the colors of its
image features, one without frames as the strip of its audio features.
"""

import contextlib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from configs.atomic_write import atomic_open
from configs.errors import UsageError
from eval.inference.map_upsampler import MapUpsampler
from eval.inference.stream_maps import Moments, held_frames
from eval.inference.video_reader import VideoReader
from eval.render.decorations import Caption, message_picture
from eval.render.drawing import View
from eval.render.first_pass import Request, progress_bar, record, record_whole
from eval.render.recording import Recording
from eval.render.still import Sound, StillVideo, open_sound, read_image
from eval.render.views import HEAD_RGB
from eval.render.writer import VideoWriter
from model.denseav import DenseAV
from model.upsamplers import Upsampler
from pipelines.build.decode.silence import SILENT_PEAK

MAX_FPS = 30.0


class Rendering(NamedTuple):
    """A written file.

    Attributes:
        path: of the file.
        view: what it shows: not the view of the call if the input has no audio or no frames.
        note: one line on what could not be given; empty if everything was.
    """

    path: Path
    view: View
    note: str


def render_video(
    model: DenseAV,
    path: str | Path | VideoReader,
    out: str | Path,
    view: View = "heatmap",
    head: int | None = None,
    upsampler: str | Upsampler = "bilinear",
    captions: Sequence[Caption] = (),
    max_fps: int | float = MAX_FPS,
    on_moments: Callable[[Moments], None] | None = None,
) -> Rendering:
    """Write an MP4 (H.264 and AAC, for browsers) of a video with what a model finds in it.

    Args:
        model: in evaluation mode; its device is used.
        path: a video or audio file, or an open reader, with limits of its own, which is left open.
        out: the file to write; it appears when it is complete.
        view: heatmap: of all heads together; heads: each in its color; head: of one head; features: joint PCA of image
            and audio features; side_by_side: the frame and the heatmap; audio: the strip of the audio features.
        head: number of the head of view=head.
        upsampler: see eval.inference.localizer.Localizer.localize.
        captions: spoken words.
        max_fps: frames are left out where there are more per second.
        on_moments: called with the features of all moments, in batches, in the order of time. The views features and
            audio have no heatmaps and do not call it.

    Raises:
        UsageError: the input cannot be used, or an argument is out of range.
        OSError: the disk is full.
    """
    request = _checked(
        Request(view, head, MapUpsampler.load(model, upsampler), tuple(captions), max_fps, on_moments), model
    )
    with contextlib.ExitStack() as stack:
        reader = path if isinstance(path, VideoReader) else stack.enter_context(VideoReader(path))
        video = reader if reader.has_video else StillVideo(message_picture(f"no picture in {reader.path.name}"), reader)
        possible, note = _possible_view(reader, view)
        request = request._replace(view=possible)
        silence = _write_video(model, video, reader if reader.has_audio else None, Path(out), request)
        note = note or silence
    return Rendering(Path(out), possible, f"{reader.path}: {note}" if note else "")


def render_image(
    model: DenseAV,
    image: str | Path | UInt8[np.ndarray, "H_px W_px 3"],
    sound: Sound,
    out: str | Path,
    view: View = "heatmap",
    head: int | None = None,
    upsampler: str | Upsampler = "bilinear",
    captions: Sequence[Caption] = (),
    on_moments: Callable[[Moments], None] | None = None,
) -> Rendering:
    """Write what a model finds in an image with a sound: an MP4 over time, or a PNG for the whole sound.

    Args:
        image: a file, or RGB uint8 [H_px, W_px, 3].
        sound: an audio or video file, an open reader, or a waveform [S], -1 to 1, with its sample rate in Hz.
        out: the file to write; a PNG if its name ends so. It appears when it is complete.
        model, view, head, upsampler, captions, on_moments: as in render_video; a PNG has no captions and no moments.

    Raises:
        UsageError, OSError: as render_video.
    """
    request = _checked(
        Request(view, head, MapUpsampler.load(model, upsampler), tuple(captions), MAX_FPS, on_moments), model
    )
    out, picture = Path(out), read_image(image)
    with open_sound(sound) as reader:
        video = StillVideo(picture, reader)
        if out.suffix.lower() == ".png":
            drawing, maps = record_whole(model, video, request)
            out.parent.mkdir(parents=True, exist_ok=True)
            with atomic_open(out) as file:
                Image.fromarray(drawing.draw(picture, maps, None)).save(file, "PNG")
            silence = _silence_note(drawing.peak)
        else:
            silence = _write_video(model, video, reader, out, request)
    return Rendering(out, view, f"{reader.path}: {silence}" if silence else "")


def _checked(request: Request, model: DenseAV) -> Request:
    """The request. Raises UsageError: an argument is out of range."""
    view, head = request.view, request.head
    if view == "head" and not 0 <= (-1 if head is None else head) < model.num_heads:
        raise UsageError(f"head={head} is not a head of the model; view=head allows 0 to {model.num_heads - 1}")
    if view == "heads" and model.num_heads > len(HEAD_RGB):
        raise UsageError(
            f"view=heads shows at most {len(HEAD_RGB)} heads, the model has {model.num_heads}; use view=head"
        )
    return request


def _possible_view(reader: VideoReader, view: View) -> tuple[View, str]:
    """The view that a file allows, and why it is another one."""
    if not reader.has_video and view != "audio":
        return "audio", f"it has no frames: view=audio instead of view={view}"
    if not reader.has_audio and view != "features":
        return "features", f"it has no audio, and silence has no heatmap: view=features instead of view={view}"
    return view, ""


def _write_video(
    model: DenseAV, video: VideoReader | StillVideo, sound: VideoReader | None, out: Path, request: Request
) -> str:
    """Both passes; returns a note on a sound that is silent."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(Recording(out.parent)) as recording:
        drawing = record(model, video, request, recording)
        fps = min(request.max_fps, video.fps)
        moments = held_frames(video, request.max_fps)
        maps = itertools.repeat(None) if request.view == "audio" else iter(recording)
        with (
            VideoWriter(out, sound, fps, video.duration_s) as writer,
            progress_bar("video", video.duration_s) as bar,
        ):
            for (time_s, frame), values in zip(moments, maps, strict=False):
                writer.write(drawing.draw(frame, values, time_s), time_s)
                bar.update(time_s - bar.n)
    return _silence_note(drawing.peak) if sound else ""


def _silence_note(peak: float) -> str:
    return f"its audio is silent (peak {peak:.1g}), so its heatmap means nothing" if peak < SILENT_PEAK else ""
