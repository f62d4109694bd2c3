"""A small model, small shards and files of every kind, and an index of them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from tiny_media import write_video, write_wav
from tiny_shards import tone, write_data_set
from tiny_training import tiny_config, tiny_model

from configs.cli import run
from configs.schema import SearchConfig
from eval.search.__main__ import main
from model.hub import save_pretrained


def write_model(folder: Path, seed: int = 0, *settings: str) -> Path:
    """A model of two heads with random weights."""
    config = tiny_config("model.num_heads=2", *settings)
    folder.mkdir(parents=True)
    save_pretrained(tiny_model(config, seed), config.model, folder)
    return folder


def write_shards(folder: Path, clips: int = 12, **clip) -> Path:
    """Shards of clips whose labels are label0, label1 and label2 in turn."""
    return write_data_set(folder, [clips // 2, clips - clips // 2], duration_s=0.8, **clip)


def write_files(folder: Path) -> Path:
    """A video, a sound and a picture in folders of their own, and a damaged file of each kind."""
    for name in ("dog", "bell", "sky"):
        (folder / name).mkdir(parents=True)
    write_video(folder / "dog/video.mp4", 1.0)
    write_wav(folder / "bell/sound.wav", tone(3, 0.8))
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "sky/picture.png")
    for name in ("dog/damaged.mp4", "bell/damaged.wav", "sky/damaged.png"):
        (folder / name).write_bytes(b"not media at all" * 20)
    return folder


def command(*arguments: str) -> int:
    """The exit code of eval.search in this process."""
    return run(SearchConfig, "doc", main, [str(argument) for argument in arguments])


def results(capsys, *arguments: str) -> list[dict]:
    """The results of a query."""
    capsys.readouterr()
    assert command(*arguments, "json=-") == 0
    return json.loads(capsys.readouterr().out)["results"]
