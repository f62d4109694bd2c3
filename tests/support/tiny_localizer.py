"""A tiny pretrained folder, and a localizer of it."""

from pathlib import Path

import numpy as np
import soundfile
from PIL import Image
from tiny_training import tiny_config, tiny_model

from eval.inference.localizer import Localizer
from model.hub import save_pretrained


def save_tiny(folder: Path, *settings: str) -> Path:
    """Write a model of random weights, always the same, for images of 32 px and sounds of 0.64 s at 16 kHz."""
    config = tiny_config(*settings)
    folder.mkdir(parents=True, exist_ok=True)
    save_pretrained(tiny_model(config), config.model, folder)
    return folder


def tiny_localizer(folder: Path, *settings: str) -> Localizer:
    return Localizer.from_pretrained(save_tiny(folder, *settings), device="cpu")


def write_image(path: Path, width_px: int = 64, height_px: int = 48, seed: int = 0) -> Path:
    """Random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_sound(path: Path, duration_s: float = 0.64, rate_hz: int = 16000, seed: int = 0) -> Path:
    """Quiet noise."""
    samples = np.random.default_rng(seed).uniform(-0.3, 0.3, round(duration_s * rate_hz))
    soundfile.write(path, samples, rate_hz)
    return path
