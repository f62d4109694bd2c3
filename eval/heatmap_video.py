"""Video of a model's heatmaps: each frame with the heatmap of the audio at its time, scaled over the whole video.

The audio is the channel that the model hears, at 48 kHz. Small frames are enlarged by an integer factor. All frames are
held in memory, so only the first 120 s of a video are rendered.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import soundfile
import torch
from jaxtyping import Float, Int, UInt8
from torchvision.transforms.v2 import functional
from tqdm import tqdm

from configs.errors import UsageError
from configs.schema import DecodeConfig
from eval.report.figures import overlay, upscale_integer
from model.denseav import DenseAV
from model.features import AudioFeatures, ImageFeatures, concat_features, map_tensors
from model.upsamplers.bilinear import resize_maps
from pipelines.build.decode.clip import decode_clip
from pipelines.build.decode.container import Segment, UnsupportedMedia, open_media, video_stream
from pipelines.build.decode.packet_scan import scan
from pipelines.manifest import Clip, RejectedClip
from pipelines.modalities.modality import DecodedClip
from pipelines.stream.augment import pad_or_crop

MAX_DURATION_S = 120.0
MAX_FPS = 25
AUDIO_RATE_HZ = 48000
WIDTH_PX = 384
BATCH_SIZE = 32


def render_heatmap_video(model: DenseAV, video: Path, out: Path) -> Path:
    """Write an mp4 (H.264 and AAC, for browsers) of a video with its heatmaps, and return its path.

    Raises:
        UsageError: the video does not exist, cannot be decoded, or has no frames or no audio.
    """
    clip, fps = _decode(video, model)
    times_s = (np.arange(max(1, round((clip.end_s - clip.start_s) * fps))) + 0.5) / fps
    shown = np.maximum(np.searchsorted(clip.frame_times_s, times_s, side="right") - 1, 0)
    maps = heatmaps_over_time(model, clip.frames, shown, times_s, clip.waveform)
    maps = (maps - maps.min()) / max(maps.max() - maps.min(), 1e-12)

    out.parent.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=out.parent).close()  # a clear error; ffmpeg's own has many lines
    temporary, audio = (out.with_name(f".{out.stem}.{os.getpid()}.tmp.{kind}") for kind in ("mp4", "flac"))
    height_px, width_px = (side - side % 2 for side in upscale_integer(clip.frames[0], WIDTH_PX).shape[:2])
    writer = imageio_ffmpeg.write_frames(
        f"file:{temporary}", (width_px, height_px), fps=fps, codec="libx264", pix_fmt_out="yuv420p", macro_block_size=2,
        quality=None, audio_path=f"file:{audio}", audio_codec="aac",
        output_params=["-crf", "20", "-movflags", "+faststart", "-t", f"{times_s[-1] + 0.5 / fps:.3f}"],
    )  # fmt: skip
    try:
        soundfile.write(os.fsencode(audio), *_audio(video, clip))
        writer.send(None)
        for number, heatmap in zip(
            tqdm(shown, desc="video", unit="frame", dynamic_ncols=True, leave=False), maps, strict=True
        ):
            frame = upscale_integer(clip.frames[number], WIDTH_PX)
            resized = resize_maps(torch.from_numpy(heatmap)[None], frame.shape[:2])[0].numpy()
            writer.send(np.ascontiguousarray(overlay(frame, resized)[:height_px, :width_px]))
        writer.close()
        temporary.replace(out)
    finally:
        writer.close()
        for path in (temporary, audio):
            path.unlink(missing_ok=True)
    return out


@torch.inference_mode()
def heatmaps_over_time(
    model: DenseAV,
    frames: Sequence[UInt8[np.ndarray, "H_px W_px 3"]],
    shown: Int[np.ndarray, "N"],
    times_s: Float[np.ndarray, "N"],
    waveform: Float[np.ndarray, "S"],
) -> Float[np.ndarray, "N H W"]:
    """The heatmap of the frame on screen and the audio at each of N times, any range.

    Args:
        frames: of the video.
        shown: index of the frame on screen at each time.
        times_s: in seconds.
        waveform: of the whole video, -1 to 1.

    Returns:
        float32; linear in time between the centers of two audio steps.
    """
    image, audio = _encode_frames(model, frames), _encode_waveform(model, waveform)
    windows, num_steps = audio.mask.shape
    dense = audio.dense.permute(0, 3, 1, 2).flatten(0, 1)
    step_s = model.inputs.clip_duration_s / num_steps
    position = torch.from_numpy(np.clip(times_s / step_s - 0.5, 0, windows * num_steps - 1))
    maps = []
    for rows, at in zip(torch.from_numpy(shown).split(BATCH_SIZE), position.split(BATCH_SIZE), strict=True):
        before = at.long()
        after = (before + 1).clamp(max=len(dense) - 1)
        pair = AudioFeatures(
            torch.stack([dense[before], dense[after]], dim=-1),
            torch.ones(len(at), 2, dtype=torch.bool, device=dense.device),
            None if audio.cls is None else audio.cls[before // num_steps],
        )
        weight = torch.stack([before + 1 - at, at - before], dim=1).float()
        shown_image = map_tensors(image, partial(torch.index_select, dim=0, index=rows.to(dense.device)))
        maps.append(model.heatmap(shown_image, pair, step_weight=weight))
    return torch.cat(maps).float().cpu().numpy()


def _decode(video: Path, model: DenseAV) -> tuple[DecodedClip, float]:
    """The decoded video and its frame rate, at most MAX_FPS."""
    if not video.is_file():
        raise UsageError(f"video={video}: no such file")
    try:
        with open_media(video) as container:
            stream = video_stream(container)
            fps = min(float(stream.average_rate or MAX_FPS), MAX_FPS)
            stated_s = container.duration / 1e6 if container.duration else MAX_DURATION_S
    except UnsupportedMedia as error:
        raise UsageError(f"video={video}: cannot be opened as a video ({error})") from None
    except RejectedClip:
        raise UsageError(f"video={video}: it has no video stream") from None
    settings = DecodeConfig(
        frames_per_clip=max(1, round(min(stated_s, MAX_DURATION_S) * fps)),
        short_side_px=480,
        sample_rate_hz=model.inputs.sample_rate_hz,
        min_duration_s=0.0,
        max_duration_s=MAX_DURATION_S,
        keep_static=True,
    )
    try:
        clip = decode_clip(Clip(id="video", media=video.name), video.parent, settings)
    except RejectedClip as error:
        raise UsageError(f"video={video}: {error.reason.replace('_', ' ')} ({error.detail})") from None
    if full_s := clip.full_duration_s:
        print(f"{video}: only the first {MAX_DURATION_S:.0f} of {full_s:.0f} s are rendered", file=sys.stderr)
    return clip, fps


def _audio(video: Path, clip: DecodedClip) -> tuple[Float[np.ndarray, "S"], int]:
    """The audio of a clip at a rate that sounds well, in step with its frames whatever the timestamps of the file."""
    if clip.decoder == "ffmpeg":  # PyAV does not read the file
        return clip.waveform, clip.sample_rate_hz
    with open_media(video) as container:
        segment = Segment((container.start_time or 0) / 1e6, clip.start_s, clip.end_s, end_is_stated=True)
        return scan(video, container, segment, with_frames=False).audio.waveform(AUDIO_RATE_HZ)[0], AUDIO_RATE_HZ


def _encode_frames(model: DenseAV, frames: Sequence[UInt8[np.ndarray, "H_px W_px 3"]]) -> ImageFeatures:
    """Features of uncropped frames: the short side as in training, both sides a multiple of the patch size."""
    height_px, width_px = frames[0].shape[:2]
    patch_px, scale = model.image_encoder.stride, model.inputs.image_size_px / min(height_px, width_px)
    size = [max(1, round(side * scale / patch_px)) * patch_px for side in (height_px, width_px)]
    device = next(model.parameters()).device
    parts = []
    for start in range(0, len(frames), BATCH_SIZE):
        batch = torch.from_numpy(np.stack(frames[start : start + BATCH_SIZE])).permute(0, 3, 1, 2)
        parts.append(model.encode_image(functional.resize(batch, size, antialias=True).to(device)))
    return concat_features(parts)


def _encode_waveform(model: DenseAV, waveform: Float[np.ndarray, "S"]) -> AudioFeatures:
    """Features of consecutive windows of the model's input length, the last one padded."""
    samples = model.inputs.samples
    device = next(model.parameters()).device
    parts = []
    for start in range(0, max(1, len(waveform)), samples):
        padded, mask = pad_or_crop(waveform[start : start + samples], samples)
        parts.append(model.encode_audio(*(torch.from_numpy(x)[None].to(device) for x in (padded, mask))))
    return concat_features(parts)
