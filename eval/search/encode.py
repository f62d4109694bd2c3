"""Decoded clips to stored ones: dense features of the model, compressed, and the hash that identifies the model."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from eval.search.clips import ModelInput
from eval.search.codebook import FirstStage
from eval.search.compression import (
    Layout,
    compress_audio,
    compress_image,
    plan_layout,
    restore_audio,
    restore_image,
)
from eval.search.store import IndexedClip
from model.denseav import DenseAV
from model.features import AudioFeatures, ImageFeatures, map_tensors
from model.weights_file import hash_tensors


def hash_model(model: DenseAV) -> str:
    """SHA-256 of everything that features depend on: weights, modules, heads, input sizes and similarity."""
    parts = (repr(model), model.num_heads, tuple(model.inputs), tuple(model.similarity_config))
    return hash_tensors(model.state_dict(), repr(parts))


@torch.inference_mode()
def layout_of(model: DenseAV) -> Layout:
    """The layout of the stored features of a model."""
    size_px, samples = model.inputs.image_size_px, model.inputs.samples
    image = encode_pixels(model, [torch.zeros(3, size_px, size_px, dtype=torch.uint8)])
    audio = encode_waveforms(model, [np.zeros(samples, np.float32)], [np.ones(samples, bool)])
    return plan_layout(image, audio, model.similarity_config.needs_cls)


@torch.inference_mode()
def encode_clips(model: DenseAV, clips: Sequence[ModelInput], layout: Layout) -> list[IndexedClip]:
    """Encode and compress clips; their vectors are None."""
    pictures = [clip.pixels for clip in clips if clip.pixels is not None]
    images = iter(compress_image(encode_pixels(model, pictures), layout) if pictures else ())
    heard = [clip for clip in clips if clip.waveform is not None and clip.audio_mask is not None]
    waveforms = [clip.waveform for clip in heard if clip.waveform is not None]
    masks = [clip.audio_mask for clip in heard if clip.audio_mask is not None]
    sounds = iter(compress_audio(encode_waveforms(model, waveforms, masks), layout) if heard else ())
    return [
        IndexedClip(
            **vars(clip.info),
            image=b"" if clip.pixels is None else next(images),
            audio=b"" if clip.waveform is None else next(sounds),
        )
        for clip in clips
    ]


def add_vectors(clips: Sequence[IndexedClip], stage: FirstStage, layout: Layout) -> list[IndexedClip]:
    """The clips with vectors of their stored features."""
    image, audio = restore_features(clips, layout)
    images = iter(() if image is None else stage.image_vectors(image).numpy())
    sounds = iter(() if audio is None else stage.audio_vectors(audio).numpy())
    return [
        dataclasses.replace(
            clip, image_vector=next(images) if clip.image else None, audio_vector=next(sounds) if clip.audio else None
        )
        for clip in clips
    ]


def restore_features(clips: Sequence[IndexedClip], layout: Layout) -> tuple[ImageFeatures | None, AudioFeatures | None]:
    """Features of the clips that have a picture, and of those that have a sound, in order; None if none has."""
    images, sounds = [clip.image for clip in clips if clip.image], [clip.audio for clip in clips if clip.audio]
    return restore_image(images, layout) if images else None, restore_audio(sounds, layout) if sounds else None


def encode_pixels(model: DenseAV, frames: Sequence[UInt8[Tensor, "3 H_px W_px"]]) -> ImageFeatures:
    """Features of images of one size, float32 on the CPU."""
    batch = torch.stack(list(frames)).to(next(model.parameters()).device)
    return map_tensors(model.encode_image(batch), _to_cpu)


def encode_waveforms(model: DenseAV, waveforms: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> AudioFeatures:
    """Features of waveforms of the model's length, float32 on the CPU; masks are True where there is audio."""
    device = next(model.parameters()).device
    batch = (torch.from_numpy(np.stack(part)).to(device) for part in (waveforms, masks))
    return map_tensors(model.encode_audio(*batch), _to_cpu)


def _to_cpu(tensor: Tensor) -> Tensor:
    return tensor.cpu() if tensor.dtype == torch.bool else tensor.float().cpu()
