"""Inputs of users: images and sounds as files, PIL images, arrays and tensors, checked and brought to one form.

An array has exactly one meaning, and everything else is an error that names the accepted forms:

- image: uint8 [H_px, W_px, 3] (RGB), or float [3, H_px, W_px] in 0 to 1 (RGB);
- sound: (array, sample rate in Hz); float in -1 to 1 or int16, [samples] or [channels, samples], at most 8 channels, of
  which the loudest is used, as in videos (VideoReader) and in builds from folders.

Files are read as in the evaluation: images upright and without alpha (pipelines.rgb_image), the loudest channel of
audio and video files, at most an hour (pipelines.build.decode.audio_file).
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from configs.errors import UsageError
from pipelines.build.decode.audio_file import read_audio
from pipelines.build.decode.audio_track import check_amplitude, energies, loudest_channel
from pipelines.manifest import RejectedClip, StorageError
from pipelines.rgb_image import upright_rgb

ImageInput = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor
SoundInput = str | os.PathLike[str] | tuple[np.ndarray | Tensor, int]

IMAGE_FORMS = "a path, a PIL image, uint8 [H_px, W_px, 3] or float [3, H_px, W_px] in 0 to 1"
SOUND_FORMS = (
    "a path or (array, sample rate in Hz), the array float in -1 to 1 or int16, [samples] or [channels, samples]"
)
MAX_CHANNELS = 8
RATES_HZ = (1_000, 768_000)


def read_image(image: object) -> UInt8[Tensor, "3 H_px W_px"]:
    """An image as RGB, 0 to 255, upright, in its own size.

    Args:
        image: one of IMAGE_FORMS.

    Raises:
    """
    if isinstance(image, str | os.PathLike):
        return _read_image_file(Path(image))
    if isinstance(image, Image.Image):
        return _decode(image, image.format, f"image={image!r}")
    if isinstance(image, np.ndarray | Tensor):
        return _image_of_array(image)
    raise UsageError(f"image={_describe(image)}: allowed is {IMAGE_FORMS}")


def read_sound(sound: object) -> tuple[Float[np.ndarray, "S"], int]:
    """A sound as the samples of its loudest channel, float32 in -1 to 1, and its sample rate in Hz.

    Args:
        sound: one of SOUND_FORMS.

    Raises:
        UsageError: another form, an array without a rate, a file without audio, no samples, samples that are not finite
            or far above full scale, or a rate outside RATES_HZ.
    """
    if isinstance(sound, str | os.PathLike):
        try:
            return read_audio(Path(sound).absolute(), channel="loudest")
        except (RejectedClip, StorageError) as error:
            raise UsageError(f"sound={sound}: no usable audio ({getattr(error, 'detail', error)})") from None
    if isinstance(sound, np.ndarray | Tensor):
        raise UsageError(f"sound={_describe(sound)} has no sample rate: give (array, sample rate in Hz)")
    array, rate_hz = sound if isinstance(sound, tuple) and len(sound) == 2 else (None, None)
    is_rate = isinstance(rate_hz, int | np.integer) and not isinstance(rate_hz, bool)
    if not isinstance(array, np.ndarray | Tensor) or rate_hz is None or not is_rate:
        raise UsageError(f"sound={_describe(sound)}: allowed is {SOUND_FORMS}")
    if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
        raise UsageError(f"sound: a sample rate of {rate_hz} Hz; allowed is {RATES_HZ[0]} to {RATES_HZ[1]} Hz")
    return _samples_of_array(array), int(rate_hz)


def as_list(values: Any) -> list[Any]:
    """A list of inputs; one input (a tuple is one sound) becomes a list of one."""
    return list(values) if isinstance(values, list) else [values]


def _read_image_file(path: Path) -> Tensor:
    if not path.is_file():
        raise UsageError(f"image={path}: no such file")
    try:
        with Image.open(path) as opened:
            return _decode(opened, opened.format, f"image={path}")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"image={path} is not a complete image ({' '.join(str(error).split())[:200]})") from None


def _decode(image: Image.Image, format: str | None, origin: str) -> Tensor:
    """uint8 [3 H_px W_px] of a copy; `format` is that of the file, which Pillow does not copy."""
    try:
        copy = image.copy()
        copy.format = format
        return torch.from_numpy(np.array(upright_rgb(copy))).permute(2, 0, 1)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"{origin} is not a complete image ({' '.join(str(error).split())[:200]})") from None


def _image_of_array(array: np.ndarray | Tensor) -> Tensor:
    tensor = _to_tensor(array, "image", IMAGE_FORMS)
    is_bytes = tensor.dtype == torch.uint8 and tensor.ndim == 3 and tensor.shape[2] == 3
    is_float = tensor.is_floating_point() and tensor.ndim == 3 and tensor.shape[0] == 3
    if not (is_bytes or is_float) or not tensor.numel():
        raise UsageError(f"image={_describe(array)}: allowed is {IMAGE_FORMS}")
    if is_bytes:
        return tensor.permute(2, 0, 1).contiguous()
    low, high = (float(value) for value in tensor.aminmax())
    if not (low >= 0 and high <= 1):  # also for NaN
        raise UsageError(f"image={_describe(array)} has values from {low:.3g} to {high:.3g}: allowed is 0 to 1")
    return (tensor.float() * 255).round().to(torch.uint8)


def _samples_of_array(array: np.ndarray | Tensor) -> Float[np.ndarray, "S"]:
    tensor = _to_tensor(array, "sound", SOUND_FORMS)
    if tensor.ndim not in (1, 2) or not (tensor.is_floating_point() or tensor.dtype == torch.int16):
        raise UsageError(f"sound={_describe(array)}: allowed is {SOUND_FORMS}")
    if tensor.ndim == 2 and tensor.shape[0] > MAX_CHANNELS:
        raise UsageError(
            f"sound={_describe(array)} has {tensor.shape[0]} channels of {tensor.shape[1]} samples: an array of two "
            f"dimensions is [channels, samples] with at most {MAX_CHANNELS} channels; transpose it"
        )
    if not tensor.numel():
        raise UsageError(f"sound={_describe(array)} has no samples")
    scale = 1 / 32768 if tensor.dtype == torch.int16 else 1.0
    channels = (tensor.float() * scale).numpy().reshape(-1, tensor.shape[-1])
    try:
        return check_amplitude(channels[loudest_channel(energies(channels))])
    except RejectedClip as error:
        raise UsageError(f"sound={_describe(array)}: {error.detail}") from None


def _to_tensor(array: np.ndarray | Tensor, name: str, forms: str) -> Tensor:
    """A tensor on the CPU that shares no memory with a read-only array."""
    if isinstance(array, Tensor):
        return array.detach().cpu()
    try:
        return torch.from_numpy(np.array(array))
    except TypeError:  # a dtype that torch does not have
        raise UsageError(f"{name}={_describe(array)}: allowed is {forms}") from None


def _describe(value: object) -> str:
    """A short description of an input for messages."""
    if isinstance(value, np.ndarray | Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, tuple):
        return f"({', '.join(_describe(part) for part in value[:3])}{', ...' * (len(value) > 3)})"
    return repr(value)[:80]
