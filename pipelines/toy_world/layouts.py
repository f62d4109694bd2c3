"""Items and tables in the layouts of AudioSet, Places Audio 400k, prompted ADE20K and the VGGSound test split.

localization.py has the other layouts. An item is a function of (seed, part, number).
Limits: videos are already trimmed to their segment (AudioSet: `videos/<ytid>_<start_ms>.mp4`); VGGSound always has 48.
"""

import json
import string
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import ToyWorldConfig
from pipelines.toy_world import localization, media
from pipelines.toy_world.scene import CLASSES, class_mask, random_scene, render
from pipelines.toy_world.sound import SAMPLE_RATE_HZ, add_noise, resample, synthesize_sound
from pipelines.toy_world.speech import SPEAKERS, Word, synthesize_speech

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
_DEFECTS = ("missing", "truncated", "no audio")
_YTID_LETTERS = string.ascii_letters + string.digits + "-_"
_MAX_RATE_WPM = 300


def item_counts(config: ToyWorldConfig) -> dict[str, int]:
    """The number of items of each part. The order of the parts seeds their random numbers: append new ones."""
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
    """Write the media files of an item unless they exist.

    Returns:
        The item's row in the table of the part.
    """
    rng = np.random.default_rng([config.seed, list(item_counts(config)).index(part), number])
    if part in localization.COUNTS:
        return localization.make_item(config, part, number, rng)
    match part.partition("_"):
        case "audioset", _, split:
            defects = _defects(config.seed, config.audioset_train, config.damaged_share) if split == "train" else {}
            return _video(config, "audioset/videos/{ytid}_{start_ms}.mp4", rng, defects.get(number))
        case "vggsound", _, _:
            return _video(config, "vggsound/videos/{ytid}_{start_s:06d}.mp4", rng)
        case "places", _, split:
            return _caption(config, split, number, rng)
        case _:
            return _prompt(config, number, rng)


def write_tables(config: ToyWorldConfig, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Write the tables of all layouts from the rows of each part, replacing existing tables."""
    files = {
        "audioset/class_labels_indices.csv": media.csv_text(
            ("index", "mid", "display_name"),
            [{"index": k, "mid": label_mid(k), "display_name": name} for k, name in enumerate(CLASSES)],
        ),
        "audioset/unbalanced_train_segments.csv": _segments(rows["audioset_train"]),
        "audioset/eval_segments.csv": _segments(rows["audioset_eval"]),
        "places_audio/metadata/train.json": _places_table(rows["places_train"]),
        "places_audio/metadata/val.json": _places_table(rows["places_val"]),
        "prompted_ade20k/prompted_segmentation.csv": media.csv_text(list(rows["prompts"][0]), rows["prompts"]),
        "prompted_ade20k/class_names.csv": media.csv_text(
            ("ade_class_id", "name"),
            [{"ade_class_id": ade_class_id(k), "name": name} for k, name in enumerate(CLASSES)],
        ),
        "vggsound/vggsound.csv": "".join(
            f"{row['ytid']},{row['start_s']},{CLASSES[row['class_id']]},test\n" for row in rows["vggsound_test"]
        ),
        **localization.tables(rows),
    }
    for name, text in files.items():
        media.write(Path(config.out, name), text.encode())


def label_mid(class_id: int) -> str:
    """The label of a class in AudioSet's column positive_labels."""
    return f"/m/toy_{class_id:02d}"


def ade_class_id(class_id: int) -> int:
    """The ADE20K class id of a class, 1 to 65535; spread out so that both color channels of an annotation are used."""
    return 101 + 37 * class_id


def annotation(class_ids: np.ndarray) -> np.ndarray:
    """Encode a mask in the colors of ADE20K: class id = int(R / 10) * 256 + G, and 0 without a class.

    Args:
        class_ids: int16 [H_px, W_px], indices into CLASSES or NO_CLASS.

    Returns:
        uint8 [H_px, W_px, 3].
    """
    ade_ids = np.array([*map(ade_class_id, range(len(CLASSES))), 0])[class_ids]  # NO_CLASS is the last one
    return np.stack([ade_ids // 256 * 10, ade_ids % 256, np.where(ade_ids > 0, 255, 0)], axis=-1).astype(np.uint8)


def _video(
    config: ToyWorldConfig, template: str, rng: np.random.Generator, defect: str | None = None
) -> dict[str, Any]:
    ytid = "".join(_YTID_LETTERS[i] for i in rng.integers(len(_YTID_LETTERS), size=11))
    start_s = int(rng.integers(0, 600))
    scene = random_scene(rng, config.image_size_px)
    class_id = int(rng.choice(scene.class_ids))

    def encode() -> bytes:
        frames = [render(scene, i / config.fps) for i in range(round(config.clip_duration_s * config.fps))]
        waveform = synthesize_sound(class_id, rng, config.clip_duration_s)
        if rng.random() < 0.7:
            rate_hz, channels = SAMPLE_RATE_HZ, waveform[None]
        else:
            rate_hz, balance = 44100, rng.uniform(0.3, 0.7)
            channels = resample(waveform, SAMPLE_RATE_HZ, rate_hz) * np.array([[balance], [1 - balance]])
        video = media.mp4(frames, config.fps, None if defect == "no audio" else channels, rate_hz)
        return video[: len(video) // 2] if defect == "truncated" else video

    if defect != "missing":
        name = template.format(ytid=ytid, start_s=start_s, start_ms=start_s * 1000)
        media.write_once(Path(config.out) / name, encode)
    return {"ytid": ytid, "start_s": start_s, "end_s": start_s + config.clip_duration_s, "class_id": class_id}


def _caption(config: ToyWorldConfig, split: str, number: int, rng: np.random.Generator) -> dict[str, Any]:
    scene = random_scene(rng, config.image_size_px)
    named = [f"a {CLASSES[k]}" for k in rng.permutation(scene.class_ids)[:2]]
    text = str(rng.choice(_CAPTIONS)).format(*named)
    speaker = str(rng.choice(list(SPEAKERS)))
    image, wav = f"{split}/{number:06d}.jpg", f"{split}/{number:06d}.wav"
    out = Path(config.out) / "places_audio"
    quality = int(rng.integers(80, 96))
    media.write_once(out / "images" / image, lambda: media.encode_image(render(scene), "JPEG", quality=quality))
    media.write_once(out / "wavs" / wav, lambda: media.wav(_speak(text, speaker, rng, config.max_caption_s)[0]))
    return {
        "uttid": f"{speaker}-{split}_{number:06d}",
        "speaker": speaker,
        "asr_text": text,
        "wav": wav,
        "image": image,
    }


def _prompt(config: ToyWorldConfig, number: int, rng: np.random.Generator) -> dict[str, Any]:
    class_id, is_held_out = number % len(CLASSES), number // len(CLASSES) % 2 == 1
    scene = random_scene(rng, config.image_size_px, (class_id,), held_out_background=is_held_out)
    quality = int(rng.integers(80, 96))
    text = str(rng.choice(_PROMPTS)).format(CLASSES[class_id])
    speech, words = _speak(text, str(rng.choice(list(SPEAKERS))), rng, config.max_caption_s)
    assert [word.text for word in words[-2:]] == CLASSES[class_id].split()
    stem = f"toy_val_{number:06d}"
    out = Path(config.out) / "prompted_ade20k"
    media.write_once(out / "frames" / f"{stem}.jpg", lambda: media.encode_image(render(scene), "JPEG", quality=quality))
    media.write_once(
        out / "annotations" / f"{stem}_seg.png", lambda: media.encode_image(annotation(class_mask(scene)), "PNG")
    )
    media.write_once(out / "audio" / f"{stem}_speech.wav", lambda: media.wav(speech))
    media.write_once(
        out / "audio" / f"{stem}_sound.wav",
        lambda: media.wav(synthesize_sound(class_id, rng, config.clip_duration_s)),
    )
    return {
        "image_location": f"frames/{stem}.jpg",
        "ade_class_id": ade_class_id(class_id),
        "speech_prompt_file": f"audio/{stem}_speech.wav",
        "timing": json.dumps([round(words[-2].start_s, 3), round(words[-1].end_s, 3)]),
        "vggsound_file": f"audio/{stem}_sound.wav",
    }


def _speak(text: str, speaker: str, rng: np.random.Generator, max_duration_s: float) -> tuple[np.ndarray, list[Word]]:
    """Synthesize a text at a random rate, faster if too long, with pauses at both ends, noise and random loudness."""
    voice, pitch = SPEAKERS[speaker]
    rate_wpm, pitch = int(rng.integers(145, 206)), pitch + int(rng.integers(-6, 7))
    before_s, after_s = rng.uniform(0.01, 0.1, 2)
    while True:
        waveform, words = synthesize_speech(text, voice, rate_wpm, pitch)
        if before_s + len(waveform) / SAMPLE_RATE_HZ + after_s <= max_duration_s or rate_wpm >= _MAX_RATE_WPM:
            break
        rate_wpm = min(rate_wpm + 15, _MAX_RATE_WPM)
    lead = round(before_s * SAMPLE_RATE_HZ)
    padded = np.pad(waveform, (lead, round(after_s * SAMPLE_RATE_HZ)))
    shifted = [Word(w.text, w.start_s + lead / SAMPLE_RATE_HZ, w.end_s + lead / SAMPLE_RATE_HZ) for w in words]
    return add_noise(padded, rng, snr_db=rng.uniform(15, 40)), shifted


@cache
def _defects(seed: int, videos: int, fraction: float) -> dict[int, str]:
    """The numbers of the training videos with a defect, and which one."""
    defective = np.random.default_rng([seed, 1_000_000]).permutation(videos)[: round(videos * fraction)]
    return {int(number): _DEFECTS[i % len(_DEFECTS)] for i, number in enumerate(defective)}


def _segments(rows: list[dict[str, Any]]) -> str:
    """A segments table of AudioSet: three comment lines, then lines of `YTID, start, end, "label"`."""
    labels = len({row["class_id"] for row in rows})
    head = [
        "# Segments csv of the toy world",
        f"# num_ytids={len(rows)}, num_segs={len(rows)}, num_unique_labels={labels}, num_positive_labels={len(rows)}",
        "# YTID, start_seconds, end_seconds, positive_labels",
    ]
    lines = [f'{r["ytid"]}, {r["start_s"]:.3f}, {r["end_s"]:.3f}, "{label_mid(r["class_id"])}"' for r in rows]
    return "\n".join([*head, *lines]) + "\n"


def _places_table(rows: list[dict[str, Any]]) -> str:
    return media.json_text({"image_base_path": "images", "audio_base_path": "wavs", "data": rows})
