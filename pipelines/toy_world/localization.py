"""Synthetic localization benchmarks in the layouts of VGG-SS, Flickr-SoundNet, IS3, AVSBench and the Extended sets.

eval/benchmarks/localization/ reads these layouts. Boxes and masks are exact.
Limits: a few dozen items each, whatever the settings: enough to compare runs, not models.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import ToyWorldConfig
from pipelines.toy_world import media
from pipelines.toy_world.scene import CLASSES, Scene, class_mask, random_scene, render
from pipelines.toy_world.sound import SAMPLE_RATE_HZ, synthesize_sound

COUNTS = {
    "vggss": 24,
    "flickr_soundnet": 24,
    "is3": 12,
    "avsbench_s4": 8,
    "avsbench_ms3": 8,
    "extended_vggss": 32,
    "extended_flickr": 16,
}
FOLDERS = (
    "vggss/frames",
    "vggss/audio",
    "flickr_soundnet/frames",
    "flickr_soundnet/audio",
    "flickr_soundnet/Annotations",
    "is3/visual_frames",
    "is3/audio_wav",
    "is3/gt_masks",
    "avsbench/Single-source/s4_data",
    "avsbench/Multi-sources/ms3_data",
    "extended_vggss/frames",
    "extended_vggss/audio",
    "extended_flickr/frames",
    "extended_flickr/audio",
    "extended_flickr/Annotations",
)
TABLES = (
    "vggss/metadata/vggss.json",
    "flickr_soundnet/metadata/flickr_test.csv",
    "is3/metadata/synthetic3240_bbox.json",
    "is3/metadata/synthetic3240_seg.json",
    "avsbench/Single-source/s4_meta_data.csv",
    "avsbench/Multi-sources/ms3_meta_data.csv",
    "extended_vggss/metadata/vggss.json",
    "extended_vggss/metadata/vggss_test_plus_silent.csv",
    "extended_flickr/metadata/flickr_test.csv",
    "extended_flickr/metadata/flickr_test_plus_silent.csv",
)

_CLIP_S = 4.0
_VIDEO_S = 5
_REGION_SIDE_PX = 224
_FLICKR_SIDE_PX = 256
_IS3_ROOT = "/data/synthetic3241"  # the published tables contain absolute paths of their authors
_SPLITS = ("train", "val") + ("test",) * (COUNTS["avsbench_s4"] - 2)
# Which of the two objects of an MS3 video make a sound, for each second.
_SOUNDING_OBJECTS = ((0,), (0,), (0, 1), (1,), ())


def make_item(config: ToyWorldConfig, part: str, number: int, rng: np.random.Generator) -> dict[str, Any]:
    """Write the media files of an item unless they exist.

    Returns:
        The item's row, from which `tables` writes the tables of the part.
    """
    make, folder = _PARTS[part]
    return make(random_scene(rng, config.image_size_px), Path(config.out) / folder, number, rng)


def tables(rows: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """The text of every file of TABLES, from the rows of each part."""
    prompts = [prompt for row in rows["is3"] for prompt in row["prompts"]]
    vggss, flickr = rows["extended_vggss"], rows["extended_flickr"]
    silent = ((row["silent"], row["silent"]) for row in vggss if "silent" in row)
    return {
        "vggss/metadata/vggss.json": media.json_text(rows["vggss"]),
        "flickr_soundnet/metadata/flickr_test.csv": _flickr_test(rows["flickr_soundnet"]),
        "is3/metadata/synthetic3240_bbox.json": _is3_table(prompts, "box"),
        "is3/metadata/synthetic3240_seg.json": _is3_table(prompts, "mask"),
        "avsbench/Single-source/s4_meta_data.csv": media.csv_text(
            ("name", "start_sec", "category", "split"), rows["avsbench_s4"]
        ),
        "avsbench/Multi-sources/ms3_meta_data.csv": media.csv_text(("name", "split"), rows["avsbench_ms3"]),
        "extended_vggss/metadata/vggss.json": media.json_text([row["visible"] for row in vggss if "visible" in row]),
        "extended_vggss/metadata/vggss_test_plus_silent.csv": _non_sounding(silent),
        "extended_flickr/metadata/flickr_test.csv": _flickr_test(flickr),
        "extended_flickr/metadata/flickr_test_plus_silent.csv": _non_sounding(_mismatched(flickr)),
    }


def _is3_table(prompts: list[dict[str, Any]], kind: str) -> str:
    return media.json_text([{"image": p["image"], "audio": p["audio"], "gt_box": p[kind]} for p in prompts])


def _flickr_test(rows: list[dict[str, Any]]) -> str:
    return "".join(f"{row['id']},0\n" for row in rows)


def _non_sounding(pairs: Iterable[tuple[str, str]]) -> str:
    """A table of pairs of a frame and a sound that does not belong to it."""
    return "".join(["video,audio,label\n", *(f"{video},{audio},non-sounding\n" for video, audio in pairs)])


def _vggss(
    scene: Scene, folder: Path, number: int, rng: np.random.Generator, absent: int | None = None
) -> dict[str, Any]:
    """A wide frame, as videos have, with the sound of its largest object or else of the class `absent`."""
    margin = len(scene.background) // 8
    class_ids = class_mask(scene)[margin:-margin]
    class_id = max(scene.class_ids, key=lambda k: int((class_ids == k).sum())) if absent is None else absent
    file = f"toy{number:08d}_{int(rng.integers(600)):06d}"
    _write_jpeg(folder / "frames" / f"{file}.jpg", lambda: render(scene)[margin:-margin])
    _write_sound(folder / "audio" / f"{file}.wav", class_id, _CLIP_S, rng)
    if absent is not None:
        return {"silent": file}
    box = (np.array(_box(class_ids == class_id)) / np.array([*class_ids.shape[::-1]] * 2)).round(6).tolist()
    return {"file": file, "class": CLASSES[class_id], "bbox": [box]}


def _extended_vggss(scene: Scene, folder: Path, number: int, rng: np.random.Generator) -> dict[str, Any]:
    """The items of the second half have the sound of a class that is not visible."""
    if number < COUNTS["extended_vggss"] // 2:
        return {"visible": _vggss(scene, folder, number, rng)}
    absent = int(rng.choice([k for k in range(len(CLASSES)) if k not in scene.class_ids]))
    return _vggss(scene, folder, number, rng, absent)


def _flickr_soundnet(scene: Scene, folder: Path, number: int, rng: np.random.Generator) -> dict[str, Any]:
    """A frame, its sound, and the boxes of three annotators, the third of whom is inaccurate."""
    class_id, name = int(rng.choice(scene.class_ids)), f"{7_000_000_000 + number}"
    exact = np.array(_box(class_mask(scene) == class_id)) * _FLICKR_SIDE_PX / len(scene.background)
    boxes = [
        np.clip(exact + rng.integers(-error_px, error_px + 1, 4), 0, _FLICKR_SIDE_PX).astype(int)
        for error_px in (3, 3, 20)
    ]
    _write_jpeg(folder / "frames" / f"{name}.jpg", partial(render, scene))
    _write_sound(folder / "audio" / f"{name}.wav", class_id, _CLIP_S, rng)
    corners = [
        "".join(f"<{tag}>{side}</{tag}>" for tag, side in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        for box in boxes
    ]
    annotators = "\n".join(f"<annotator><bbox><name>source</name>{box}</bbox></annotator>" for box in corners)
    text = f'<?xml version="1.0"?>\n<annotation>\n{annotators}\n</annotation>\n'
    media.write_once(folder / "Annotations" / f"{name}.xml", text.encode)
    return {"id": name, "class_id": class_id, "class_ids": scene.class_ids}


def _mismatched(rows: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """The pairs of Extended Flickr: each frame and a sound of a class that it does not show, of the next such item."""
    for number, row in enumerate(rows, 1):
        yield row["id"], next(o["id"] for o in rows[number:] + rows[:number] if o["class_id"] not in row["class_ids"])


def _is3(scene: Scene, folder: Path, number: int, rng: np.random.Generator) -> dict[str, Any]:
    """The same image with two prompts, each with the sound and the region of one of two objects."""
    class_ids = class_mask(scene)
    largest = sorted(scene.class_ids, key=lambda k: -int((class_ids == k).sum()))[:2]
    names = [CLASSES[class_id].replace(" ", "") for class_id in largest]
    scale = _REGION_SIDE_PX / len(class_ids)
    prompts = []
    for class_id, target in zip(largest, names, strict=True):
        name, region = f"{names[0]}_{names[1]}_{number}_{target}", class_ids == class_id
        _write_jpeg(folder / "visual_frames" / f"{name}.jpg", partial(render, scene))
        _write_jpeg(folder / "gt_masks" / f"{name}.jpg", partial(_mask_image, region))
        _write_sound(folder / "audio_wav" / f"{name}.wav", class_id, _CLIP_S, rng)
        prompts.append(
            {
                "image": f"{_IS3_ROOT}/visual_frames/{name}.jpg",
                "audio": f"{_IS3_ROOT}/audio_wav/{name}.wav",
                "mask": f"{_IS3_ROOT}/gt_masks/{name}.jpg",
                "box": [round(side * scale, 1) for side in _box(region)],
            }
        )
    return {"prompts": prompts}


def _avsbench_s4(scene: Scene, folder: Path, number: int, rng: np.random.Generator) -> dict[str, Any]:
    """A video in which one object makes a sound."""
    class_id, name = int(rng.choice(scene.class_ids)), f"toyS4_{number:05d}"
    category, split = CLASSES[class_id].replace(" ", "_"), _SPLITS[number]
    stem = f"{split}/{category}/{name}"
    _write_video(folder, f"{stem}/{name}", f"{stem}/{name}", scene, [(class_id,)] * _VIDEO_S)
    _write_sound(folder / f"audio_wav/{stem}.wav", class_id, _VIDEO_S, rng)
    return {"name": name, "start_sec": int(rng.integers(6)), "category": category, "split": split}


def _avsbench_ms3(scene: Scene, folder: Path, number: int, rng: np.random.Generator) -> dict[str, Any]:
    """A video in which two objects make sounds in turn, then together, followed by a second of silence."""
    pair = [int(class_id) for class_id in rng.permutation(scene.class_ids)[:2]]
    name, split = f"toyMS3_{number:04d}", _SPLITS[number]
    sounding = [tuple(pair[index] for index in indices) for indices in _SOUNDING_OBJECTS]
    _write_video(folder, f"{name}/{name}.mp4", f"{split}/{name}/{name}", scene, sounding)
    sound_rng = rng.spawn(1)[0]

    def mix() -> np.ndarray:
        tracks = [synthesize_sound(class_id, sound_rng, _VIDEO_S) for class_id in pair]
        gates = np.array([[index in indices for indices in _SOUNDING_OBJECTS] for index in range(2)], np.float32)
        gates = gates.repeat(SAMPLE_RATE_HZ, axis=1)
        mixed = sum(track * gate for track, gate in zip(tracks, gates, strict=True))
        return np.clip(mixed, -1, 1) + sound_rng.normal(0, 1e-3, gates.shape[1])

    media.write_once(folder / f"audio_wav/{split}/{name}.wav", lambda: media.wav(mix()))
    return {"name": name, "split": split}


def _write_video(folder: Path, frames: str, masks: str, scene: Scene, sounding: list[tuple[int, ...]]) -> None:
    """Write the frame in the middle of each second, and the mask of the objects that make a sound in it."""
    for second, class_ids in enumerate(sounding):
        region = np.isin(class_mask(scene, second + 0.5), class_ids)
        _write_png(folder / f"visual_frames/{frames}_{second + 1}.png", partial(render, scene, second + 0.5))
        _write_png(folder / f"gt_masks/{masks}_{second + 1}.png", partial(_mask_image, region))


def _box(region: np.ndarray) -> tuple[int, int, int, int]:
    """The bounding box of a region in pixels: left, top, right, bottom, the last two exclusive."""
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _mask_image(region: np.ndarray) -> np.ndarray:
    return region.astype(np.uint8) * 255


def _write_jpeg(path: Path, draw: Callable[[], np.ndarray]) -> None:
    media.write_once(path, lambda: media.encode_image(draw(), "JPEG", quality=92))


def _write_png(path: Path, draw: Callable[[], np.ndarray]) -> None:
    media.write_once(path, lambda: media.encode_image(draw(), "PNG"))


def _write_sound(path: Path, class_id: int, duration_s: float, rng: np.random.Generator) -> None:
    # An existing file is not generated again, so its random numbers must not change those that follow.
    sound_rng = rng.spawn(1)[0]
    media.write_once(path, lambda: media.wav(synthesize_sound(class_id, sound_rng, duration_s)))


# Part -> what makes its items, and their folder.
_PARTS: dict[str, tuple[Callable[[Scene, Path, int, np.random.Generator], dict[str, Any]], str]] = {
    "vggss": (_vggss, "vggss"),
    "flickr_soundnet": (_flickr_soundnet, "flickr_soundnet"),
    "is3": (_is3, "is3"),
    "avsbench_s4": (_avsbench_s4, "avsbench/Single-source/s4_data"),
    "avsbench_ms3": (_avsbench_ms3, "avsbench/Multi-sources/ms3_data"),
    "extended_vggss": (_extended_vggss, "extended_vggss"),
    "extended_flickr": (_flickr_soundnet, "extended_flickr"),
}
