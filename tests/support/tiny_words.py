"""A small data set in the layout of Places Audio whose captions have words: pitch c in a word is color c of the image.

Before the word, each caption has a longer tone of another color's pitch, which no word covers.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from oracle_encoders import PITCHES_HZ
from PIL import Image

from configs.load import load
from configs.schema import BuildConfig
from pipelines.build.__main__ import main

RATE_HZ, SIZE_PX, DURATION_S = 16_000, 32, 2.0
COLORS = ("red", "green", "blue")
WORD_S = (1.4, 1.8)
# The words of clip c: the color's name, and a word that ends after the audio.
WORDS = {
    f"clip{color}": [
        {"word": name, "start_s": WORD_S[0], "end_s": WORD_S[1]},
        {"word": "thing", "start_s": 1.9, "end_s": 2.6},
    ]
    for color, name in enumerate(COLORS)
}


def caption_audio(color: int, lead_s: float = 0.0) -> np.ndarray:
    """Float32 [S]: after `lead_s`, 1.1 s of the next color's pitch, silence, and the color's own pitch in its word."""
    time_s = np.arange(round((lead_s + DURATION_S) * RATE_HZ)) / RATE_HZ - lead_s
    other, own = (0.4 * np.sin(2 * np.pi * PITCHES_HZ[c % 3] * time_s) for c in (color + 1, color))
    in_word = (time_s >= WORD_S[0]) & (time_s < WORD_S[1])
    return np.where(in_word, own, np.where((time_s >= 0) & (time_s < 1.1), other, 0)).astype(np.float32)


def color_image(color: int) -> Image.Image:
    """A uniform image of a color."""
    pixels = np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8)
    pixels[..., color] = 220
    return Image.fromarray(pixels)


def write_captions(root: Path) -> Path:
    """Write the layout: an image, a caption and words for each color."""
    for folder in ("metadata", "images", "wavs"):
        (root / folder).mkdir(parents=True)
    items = []
    for color, name in enumerate(COLORS):
        color_image(color).save(root / f"images/{color}.jpg", quality=95)
        soundfile.write(root / f"wavs/{color}.wav", caption_audio(color), RATE_HZ)
        items.append(
            {"uttid": f"clip{color}", "asr_text": f"{name} thing", "wav": f"{color}.wav", "image": f"{color}.jpg"}
        )
    (root / "metadata/val.json").write_text(json.dumps({"data": items}))
    (root / "metadata/val_alignments.json").write_text(json.dumps(WORDS))
    return root


@pytest.fixture(scope="module")
def spoken(tmp_path_factory) -> Path:
    """The captions as shards of pipelines.build."""
    root = tmp_path_factory.mktemp("spoken")
    source = ["source.kind=places_audio", f"source.root={write_captions(root / 'raw')}", "source.split=val"]
    assert main(load(BuildConfig, [*source, f"out={root}/shards", "processes=1"])) == 0
    return root / "shards"
