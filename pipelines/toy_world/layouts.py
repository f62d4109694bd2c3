"""The toy world's items and tables in the layouts of AudioSet, Places Audio 400k, prompted ADE20K and VGGSound's test split; toy_localization has those
of the other sets.

An item is a function of (seed, part, number): `make_item` writes the media that are not there yet and returns the item's row of a table.
Limits: videos are already cut to their segment, AudioSet's as `videos/<ytid>_<start_ms>.mp4`; 48 of VGGSound, whatever the settings.
"""

from __future__ import annotations

import csv
import io
import json
import string
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import ToyWorldConfig
from pipelines.toy_world import localization, media
from pipelines.toy_world.scene import CLASSES, NO_CLASS, mask, render, scene
from pipelines.toy_world.sound import SAMPLE_RATE_HZ, resample, sound, with_noise
from pipelines.toy_world.speech import SPEAKERS, Word, say

FOLDERS = (
    "audioset/videos",
    "places_audio/images/train",
    "places_audio/images/val",
    "places_audio/wavs/train",
    "places_audio/wavs/val",
    "prompted_ade20k/frames",
    "prompted_ade20k/audio",
    "prompted_ade20k/annotations",
    *localization.FOLDERS,
    "vggsound/videos",
)
TABLES = (
    "audioset/class_labels_indices.csv",
    "audioset/unbalanced_train_segments.csv",
    "audioset/eval_segments.csv",
    "places_audio/metadata/train.json",
    "places_audio/metadata/val.json",
    "prompted_ade20k/class_names.csv",
    "prompted_ade20k/prompted_segmentation.csv",
    *localization.TABLES,
    "vggsound/vggsound.csv",
)
VGGSOUND_TEST = 48

_SEGMENTS = {"audioset_train": "unbalanced_train_segments.csv", "audioset_eval": "eval_segments.csv"}
_CAPTIONS = (
    "{0} and {1}",
    "{0} and {1}",
    "{0} near {1}",
    "{0} with {1}",
    "{0} next to {1}",
    "there is {0} and {1}",
    "i see {0} and {1}",
)
_PROMPTS = ("a {}", "the {}", "see the {}", "look at the {}", "a photo of a {}")
_DAMAGE = ("missing", "cut off", "without sound")
_YTID_LETTERS = string.ascii_letters + string.digits + "-_"


def counts(config: ToyWorldConfig) -> dict[str, int]:
    """Items of each part."""
    return {
        "audioset_train": config.audioset_train,
        "audioset_eval": config.audioset_eval,
        "places_train": config.places_train,
        "places_val": config.places_val,
        "prompts": config.prompts,
        **localization.COUNTS,
        "vggsound_test": VGGSOUND_TEST,
    }


def make_item(config: ToyWorldConfig, part: str, number: int) -> dict[str, Any]:
    """Write an item's media where they are missing.

    Returns:
        The item's row of the part's table.
    """
    rng = np.random.default_rng([config.seed, list(counts(config)).index(part), number])
    if part in localization.COUNTS:
        return localization.make_item(config, part, number, rng)
    match part.partition("_"):
        case "audioset", _, split:
            damage = (
                _damage(config.seed, config.audioset_train, config.damaged_share).get(number)
                if split == "train"
                else None
            )
            return _video(config, "audioset/videos/{ytid}_{start_ms}.mp4", rng, damage)
        case "vggsound", _, _:
            return _video(config, "vggsound/videos/{ytid}_{start_s:06d}.mp4", rng)
        case "places", _, split:
            return _caption(config, split, number, rng)
        case _:
            return _prompt(config, number, rng)


def write_tables(config: ToyWorldConfig, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Write the tables of all layouts, replacing older ones, from the rows of each part."""
    out = Path(config.out)
    files = {
        "audioset/class_labels_indices.csv": _csv(
            ["index", "mid", "display_name"], [[k, label_mid(k), name] for k, name in enumerate(CLASSES)]
        ),
        "prompted_ade20k/prompted_segmentation.csv": _csv(
            list(rows["prompts"][0]), [list(row.values()) for row in rows["prompts"]]
        ),
    }
    files["prompted_ade20k/class_names.csv"] = _csv(
        ["ade_class_id", "name"], [[ade_class_id(k), name] for k, name in enumerate(CLASSES)]
    )
    files["vggsound/vggsound.csv"] = "".join(
        f"{r['ytid']},{r['start_s']},{CLASSES[r['kind']]},test\n" for r in rows["vggsound_test"]
    )
    for part, name in _SEGMENTS.items():
        files[f"audioset/{name}"] = _segments(rows[part])
    for part, split in (("places_train", "train"), ("places_val", "val")):
        table = {"image_base_path": "images", "audio_base_path": "wavs", "data": rows[part]}
        files[f"places_audio/metadata/{split}.json"] = json.dumps(table, indent=1) + "\n"
    for name, text in (files | localization.tables(rows)).items():
        (out / name).parent.mkdir(exist_ok=True)
        media.write(out / name, text.encode())


def label_mid(kind: int) -> str:
    """A class's name in AudioSet's column positive_labels."""
    return f"/m/toy_{kind:02d}"


def ade_class_id(kind: int) -> int:
    """A class's number in the prompted ADE20K set, 1 to 65535; both colour channels of the annotation carry some of it."""
    return 101 + 37 * kind


def annotation(kinds: np.ndarray) -> np.ndarray:
    """A mask in ADE20K's colour coding: class = int(R / 10) * 256 + G, and 0 without a class.

    Args:
        kinds: int16 [H_px, W_px], classes or NO_CLASS.

    Returns:
        uint8 [H_px, W_px, 3].
    """
    numbers = np.where(kinds == NO_CLASS, 0, ade_class_id(kinds.astype(int)))
    return np.stack([numbers // 256 * 10, numbers % 256, np.where(numbers > 0, 255, 0)], axis=-1).astype(np.uint8)


def _video(
    config: ToyWorldConfig, template: str, rng: np.random.Generator, damage: str | None = None
) -> dict[str, Any]:
    ytid = "".join(_YTID_LETTERS[i] for i in rng.integers(len(_YTID_LETTERS), size=11))
    start_s = int(rng.integers(0, 600))
    picture = scene(rng, config.image_size_px)
    kind = int(rng.choice(picture.kinds))

    def make() -> bytes:
        frames = [render(picture, i / config.fps) for i in range(round(config.clip_duration_s * config.fps))]
        waveform = sound(kind, rng, config.clip_duration_s)
        if rng.random() < 0.7:
            rate_hz, channels = SAMPLE_RATE_HZ, waveform[None]
        else:
            rate_hz, balance = 44100, rng.uniform(0.3, 0.7)
            channels = resample(waveform, SAMPLE_RATE_HZ, rate_hz) * np.array([[balance], [1 - balance]])
        video = media.mp4(frames, config.fps, None if damage == "without sound" else channels, rate_hz)
        return video[: len(video) // 2] if damage == "cut off" else video

    if damage != "missing":
        media.write_once(Path(config.out) / template.format(ytid=ytid, start_s=start_s, start_ms=start_s * 1000), make)
    return {"ytid": ytid, "start_s": start_s, "end_s": start_s + config.clip_duration_s, "kind": kind}


def _caption(config: ToyWorldConfig, split: str, number: int, rng: np.random.Generator) -> dict[str, Any]:
    picture = scene(rng, config.image_size_px)
    named = [f"a {CLASSES[k]}" for k in rng.permutation(picture.kinds)[:2]]
    text = str(rng.choice(_CAPTIONS)).format(*named)
    speaker = str(rng.choice(list(SPEAKERS)))
    image, wav = f"{split}/{number:06d}.jpg", f"{split}/{number:06d}.wav"
    out = Path(config.out) / "places_audio"
    quality = int(rng.integers(80, 96))
    media.write_once(out / "images" / image, lambda: media.jpeg(render(picture), quality))
    media.write_once(out / "wavs" / wav, lambda: media.wav(_speak(text, speaker, rng, config.max_caption_s)[0]))
    return {
        "uttid": f"{speaker}-{split}_{number:06d}",
        "speaker": speaker,
        "asr_text": text,
        "wav": wav,
        "image": image,
    }


def _prompt(config: ToyWorldConfig, number: int, rng: np.random.Generator) -> dict[str, Any]:
    kind = number % len(CLASSES)
    picture = scene(rng, config.image_size_px, kinds=(kind,), unseen_background=number // len(CLASSES) % 2 == 1)
    quality = int(rng.integers(80, 96))
    text = str(rng.choice(_PROMPTS)).format(CLASSES[kind])
    speech, words = _speak(text, str(rng.choice(list(SPEAKERS))), rng, config.max_caption_s)
    assert [word.text for word in words[-2:]] == CLASSES[kind].split()
    stem = f"toy_val_{number:06d}"
    out = Path(config.out) / "prompted_ade20k"
    media.write_once(out / "frames" / f"{stem}.jpg", lambda: media.jpeg(render(picture), quality))
    media.write_once(out / "annotations" / f"{stem}_seg.png", lambda: media.png(annotation(mask(picture))))
    media.write_once(out / "audio" / f"{stem}_speech.wav", lambda: media.wav(speech))
    media.write_once(out / "audio" / f"{stem}_sound.wav", lambda: media.wav(sound(kind, rng, config.clip_duration_s)))
    return {
        "image_location": f"frames/{stem}.jpg",
        "ade_class_id": ade_class_id(kind),
        "speech_prompt_file": f"audio/{stem}_speech.wav",
        "timing": json.dumps([round(words[-2].start_s, 3), round(words[-1].end_s, 3)]),
        "vggsound_file": f"audio/{stem}_sound.wav",
    }


def _speak(text: str, speaker: str, rng: np.random.Generator, longest_s: float) -> tuple[np.ndarray, list[Word]]:
    """Say a text at a random rate, faster where it would be too long, with a short pause before and after, noise and a random loudness."""
    voice, pitch = SPEAKERS[speaker]
    rate_wpm, pitch = int(rng.integers(145, 206)), pitch + int(rng.integers(-6, 7))
    before_s, after_s = rng.uniform(0.01, 0.1, 2)
    while True:
        waveform, words = say(text, voice, rate_wpm, pitch)
        if before_s + len(waveform) / SAMPLE_RATE_HZ + after_s <= longest_s or rate_wpm >= _FASTEST_WPM:
            break
        rate_wpm = min(rate_wpm + 15, _FASTEST_WPM)
    lead = round(before_s * SAMPLE_RATE_HZ)
    padded = np.pad(waveform, (lead, round(after_s * SAMPLE_RATE_HZ)))
    shifted = [Word(w.text, w.start_s + lead / SAMPLE_RATE_HZ, w.end_s + lead / SAMPLE_RATE_HZ) for w in words]
    return with_noise(padded, rng, snr_db=rng.uniform(15, 40)), shifted


_FASTEST_WPM = 300


@cache
def _damage(seed: int, videos: int, share: float) -> dict[int, str]:
    """The training videos that are broken, and how."""
    broken = np.random.default_rng([seed, 1_000_000]).permutation(videos)[: round(videos * share)]
    return {int(number): _DAMAGE[i % len(_DAMAGE)] for i, number in enumerate(broken)}


def _segments(rows: list[dict[str, Any]]) -> str:
    """AudioSet's table: three comment lines, then `YTID, start, end, "label"`."""
    labels = len({row["kind"] for row in rows})
    head = [
        "# Segments csv of the toy world",
        f"# num_ytids={len(rows)}, num_segs={len(rows)}, num_unique_labels={labels}, num_positive_labels={len(rows)}",
        "# YTID, start_seconds, end_seconds, positive_labels",
    ]
    return (
        "\n".join(head + [f'{r["ytid"]}, {r["start_s"]:.3f}, {r["end_s"]:.3f}, "{label_mid(r["kind"])}"' for r in rows])
        + "\n"
    )


def _csv(head: list[str], rows: list[list[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return buffer.getvalue()
