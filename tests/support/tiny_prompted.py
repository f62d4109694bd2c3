"""A small folder in the layout of prompted ADE20K: color c of an image belongs to pitch c."""

import json

import numpy as np
import soundfile
from oracle_encoders import PITCHES_HZ
from PIL import Image

SIZE_PX, RATE_HZ = 64, 16000


def write_prompted(root, count=6, rows=()):
    for folder in ("frames", "annotations", "audio"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    lines = ["image_location,ade_class_id,speech_prompt_file,timing,vggsound_file"]
    for n in range(count):
        color, offset_px = n % 3, 8 * (n % 4)
        image, mask = np.full((SIZE_PX, 2 * SIZE_PX, 3), 40, np.uint8), np.zeros((SIZE_PX, 2 * SIZE_PX, 3), np.uint8)
        square = (slice(16, 40), slice(40 + offset_px, 64 + offset_px))
        image[square][..., color] = 220
        mask[square] = (255, 200 + color, 255)
        other = (slice(44, 60), slice(36, 52))
        image[other][..., (color + 1) % 3] = 220
        Image.fromarray(image).save(root / f"frames/p{n}.png")
        Image.fromarray(mask).save(root / f"annotations/p{n}_seg.png")
        time_s = np.arange(8000) / RATE_HZ
        silent = np.zeros(4000)
        word = np.concatenate([silent, 0.5 * np.sin(2 * np.pi * PITCHES_HZ[color] * time_s)])
        soundfile.write(root / f"audio/s{n}.wav", word, RATE_HZ)
        soundfile.write(
            root / f"audio/v{n}.wav", np.sin(2 * np.pi * PITCHES_HZ[color] * np.arange(44100) / 44100) * 0.5, 44100
        )
        lines.append(f'elsewhere/p{n}.png,{25 * 256 + 200 + color},x/s{n}.wav,"{json.dumps([0.25, 0.75])}",y/v{n}.wav')
    (root / "prompted_segmentation.csv").write_text("\n".join([*lines, *rows]) + "\n")
    return root
