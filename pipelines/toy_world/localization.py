"""The toy world's twins of the localisation sets, in the layouts of VGG-SS, Flickr-SoundNet, IS3, AVSBench and the Extended sets.

Layouts: eval/benchmarks/localization/vgg_ss.py, flickr_soundnet.py, is3.py, avsbench.py, slavc.py. Boxes and masks are those of the drawn scenes.
Limits: a few dozen items each, whatever the settings; for comparing runs, not models.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import ToyWorldConfig
from pipelines.toy_world import media
from pipelines.toy_world.scene import CLASSES, Scene, mask, render, scene
from pipelines.toy_world.sound import SAMPLE_RATE_HZ, sound

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
_ELSEWHERE = "/data/synthetic3241"  # the published tables name files by the paths of their authors
_SPLITS = ("train", "val") + ("test",) * (COUNTS["avsbench_s4"] - 2)
# Which of the two things of an MS3 video sound in each of its seconds.
_SOUNDING = ((0,), (0,), (0, 1), (1,), ())


def make_item(config: ToyWorldConfig, part: str, number: int, rng: np.random.Generator) -> dict[str, Any]:
    """Write an item's media where they are missing.

    Returns:
        What the part's tables say of it.
    """
    return _MAKERS[part](config, Path(config.out), number, rng)


def tables(rows: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """The text of every file of TABLES, from the rows of each part."""
    texts = {"vggss/metadata/vggss.json": _json(rows["vggss"])}
    texts["flickr_soundnet/metadata/flickr_test.csv"] = "".join(f"{row['id']},0\n" for row in rows["flickr_soundnet"])
    for table, kind in (("bbox", "box"), ("seg", "mask")):
        prompts = [prompt for row in rows["is3"] for prompt in row["prompts"]]
        texts[f"is3/metadata/synthetic3240_{table}.json"] = _json(
            [{key: p[key] for key in ("image", "audio")} | {"gt_box": p[kind]} for p in prompts]
        )
    texts["avsbench/Single-source/s4_meta_data.csv"] = _csv("name,start_sec,category,split", rows["avsbench_s4"])
    texts["avsbench/Multi-sources/ms3_meta_data.csv"] = _csv("name,split", rows["avsbench_ms3"])
    visible = [row["visible"] for row in rows["extended_vggss"] if "visible" in row]
    silent = [
        {"video": row["silent"], "audio": row["silent"], "label": "non-sounding"}
        for row in rows["extended_vggss"]
        if "silent" in row
    ]
    texts["extended_vggss/metadata/vggss.json"] = _json(visible)
    texts["extended_vggss/metadata/vggss_test_plus_silent.csv"] = _csv("video,audio,label", silent)
    flickr = rows["extended_flickr"]
    texts["extended_flickr/metadata/flickr_test.csv"] = "".join(f"{row['id']},0\n" for row in flickr)
    texts["extended_flickr/metadata/flickr_test_plus_silent.csv"] = _csv(
        "video,audio,label", [_exchanged(row, flickr) for row in flickr]
    )
    return texts


def _vggss(config: ToyWorldConfig, out: Path, number: int, rng: np.random.Generator) -> dict[str, Any]:
    return _clip(out / "vggss", number, scene(rng, config.image_size_px), rng)


def _extended_vggss(config: ToyWorldConfig, out: Path, number: int, rng: np.random.Generator) -> dict[str, Any]:
    """The second half sounds of what is not in the picture."""
    picture = scene(rng, config.image_size_px)
    if number < COUNTS["extended_vggss"] // 2:
        return {"visible": _clip(out / "extended_vggss", number, picture, rng)}
    absent = int(rng.choice([kind for kind in range(len(CLASSES)) if kind not in picture.kinds]))
    return {"silent": _clip(out / "extended_vggss", number, picture, rng, absent)["file"]}


def _clip(
    folder: Path, number: int, picture: Scene, rng: np.random.Generator, absent: int | None = None
) -> dict[str, Any]:
    """A wide frame, as videos have, and its sound."""
    rows = slice(len(picture.background) // 8, -len(picture.background) // 8)
    kinds = mask(picture)[rows]
    kind = max(picture.kinds, key=lambda k: int((kinds == k).sum())) if absent is None else absent
    file = f"toy{number:08d}_{int(rng.integers(600)):06d}"
    _picture(folder / "frames" / f"{file}.jpg", lambda: render(picture)[rows])
    _sound(folder / "audio" / f"{file}.wav", kind, _CLIP_S, rng)
    box = (
        None
        if absent is not None
        else (np.array(_box(kinds == kind)) / np.array([kinds.shape[1], kinds.shape[0]] * 2)).round(6).tolist()
    )
    return {"file": file, "class": CLASSES[kind], "bbox": [box]}


def _flickr_soundnet(config: ToyWorldConfig, out: Path, number: int, rng: np.random.Generator) -> dict[str, Any]:
    return _annotated(out / "flickr_soundnet", number, scene(rng, config.image_size_px), rng)


def _extended_flickr(config: ToyWorldConfig, out: Path, number: int, rng: np.random.Generator) -> dict[str, Any]:
    return _annotated(out / "extended_flickr", number, scene(rng, config.image_size_px), rng)


def _annotated(folder: Path, number: int, picture: Scene, rng: np.random.Generator) -> dict[str, Any]:
    """A frame, its sound, and the boxes of three people, two careful and one careless."""
    kind, name = int(rng.choice(picture.kinds)), f"{7_000_000_000 + number}"
    exact = np.array(_box(mask(picture) == kind)) * _FLICKR_SIDE_PX / len(picture.background)
    boxes = [np.clip(exact + rng.integers(-far, far + 1, 4), 0, _FLICKR_SIDE_PX).astype(int) for far in (3, 3, 20)]
    _picture(folder / "frames" / f"{name}.jpg", lambda: render(picture))
    _sound(folder / "audio" / f"{name}.wav", kind, _CLIP_S, rng)
    corners = [
        "".join(f"<{tag}>{side}</{tag}>" for tag, side in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        for box in boxes
    ]
    annotators = "\n".join(f"<annotator><bbox><name>source</name>{box}</bbox></annotator>" for box in corners)
    text = f'<?xml version="1.0"?>\n<annotation>\n{annotators}\n</annotation>\n'
    _write(folder / "Annotations" / f"{name}.xml", text.encode)
    return {"id": name, "kind": kind, "kinds": picture.kinds}


def _exchanged(row: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, str]:
    """A row of the extension: the picture with the sound of another one, of something it does not show."""
    after = rows.index(row) + 1
    other = next(candidate for candidate in rows[after:] + rows[:after] if candidate["kind"] not in row["kinds"])
    return {"video": row["id"], "audio": other["id"], "label": "non-sounding"}


def _is3(config: ToyWorldConfig, out: Path, number: int, rng: np.random.Generator) -> dict[str, Any]:
    """One picture of two things under two names, each with the sound and the region of one."""
    picture = scene(rng, config.image_size_px)
    kinds = mask(picture)
    things = sorted(picture.kinds, key=lambda k: -int((kinds == k).sum()))[:2]
    plain = [CLASSES[kind].replace(" ", "") for kind in things]
    scale = _REGION_SIDE_PX / len(kinds)
    prompts = []
    for kind, target in zip(things, plain, strict=True):
        name, region = f"{plain[0]}_{plain[1]}_{number}_{target}", kinds == kind
        _picture(out / "is3/visual_frames" / f"{name}.jpg", lambda: render(picture))
        _picture(out / "is3/gt_masks" / f"{name}.jpg", lambda region=region: region.astype(np.uint8) * 255)
        _sound(out / "is3/audio_wav" / f"{name}.wav", kind, _CLIP_S, rng)
        folders = {"image": "visual_frames", "audio": "audio_wav", "mask": "gt_masks"}
        paths = {
            key: f"{_ELSEWHERE}/{folder}/{name}.{'wav' if key == 'audio' else 'jpg'}" for key, folder in folders.items()
        }
        prompts.append(paths | {"box": [round(side * scale, 1) for side in _box(region)]})
    return {"prompts": prompts}


def _avsbench_s4(config: ToyWorldConfig, out: Path, number: int, rng: np.random.Generator) -> dict[str, Any]:
    picture = scene(rng, config.image_size_px)
    kind, name, data = int(rng.choice(picture.kinds)), f"toyS4_{number:05d}", out / "avsbench/Single-source/s4_data"
    category, split = CLASSES[kind].replace(" ", "_"), _SPLITS[number]
    _video(
        data, f"{split}/{category}/{name}/{name}", f"{split}/{category}/{name}/{name}", picture, [(kind,)] * _VIDEO_S
    )
    _sound(data / f"audio_wav/{split}/{category}/{name}.wav", kind, _VIDEO_S, rng)
    return {"name": name, "start_sec": int(rng.integers(6)), "category": category, "split": split}


def _avsbench_ms3(config: ToyWorldConfig, out: Path, number: int, rng: np.random.Generator) -> dict[str, Any]:
    """Two things that sound in turn, then together, and a second of silence."""
    picture = scene(rng, config.image_size_px)
    things = [int(kind) for kind in rng.permutation(picture.kinds)[:2]]
    name, split, data = f"toyMS3_{number:04d}", _SPLITS[number], out / "avsbench/Multi-sources/ms3_data"
    _video(
        data,
        f"{name}/{name}.mp4",
        f"{split}/{name}/{name}",
        picture,
        [tuple(things[place] for place in places) for places in _SOUNDING],
    )
    own = rng.spawn(1)[0]

    def mixed() -> np.ndarray:
        tracks = [sound(kind, own, _VIDEO_S) for kind in things]
        on = np.array([[place in places for places in _SOUNDING] for place in range(2)], np.float32).repeat(
            SAMPLE_RATE_HZ, axis=1
        )
        return np.clip(sum(track * gate for track, gate in zip(tracks, on, strict=True)), -1, 1) + own.normal(
            0, 1e-3, on.shape[1]
        )

    _write(data / f"audio_wav/{split}/{name}.wav", lambda: media.wav(mixed()))
    return {"name": name, "split": split}


def _video(data: Path, frames: str, masks: str, picture: Scene, sounding: list[tuple[int, ...]]) -> None:
    """A frame from the middle of each second, and the mask of what sounds in it."""
    for second, kinds in enumerate(sounding):
        _write(
            data / "visual_frames" / f"{frames}_{second + 1}.png",
            lambda t_s=second + 0.5: media.png(render(picture, t_s)),
        )
        region = np.isin(mask(picture, second + 0.5), kinds)
        _write(
            data / "gt_masks" / f"{masks}_{second + 1}.png",
            lambda region=region: media.png(region.astype(np.uint8) * 255),
        )


def _box(region: np.ndarray) -> tuple[int, int, int, int]:
    """The smallest box around a region: left, top, right, bottom, the last two one past it."""
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _picture(path: Path, draw: Callable[[], np.ndarray]) -> None:
    _write(path, lambda: media.jpeg(draw(), 92))


def _sound(path: Path, kind: int, duration_s: float, rng: np.random.Generator) -> None:
    own = rng.spawn(1)[0]  # a sound that is there is not made again: what follows must not depend on that
    _write(path, lambda: media.wav(sound(kind, own, duration_s)))


def _write(path: Path, make: Callable[[], bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    media.write_once(path, make)


def _json(rows: list[Any]) -> str:
    return json.dumps(rows, indent=1) + "\n"


def _csv(head: str, rows: list[dict[str, Any]]) -> str:
    return "\n".join([head, *(",".join(str(row[column]) for column in head.split(",")) for row in rows)]) + "\n"


_MAKERS: dict[str, Callable[[ToyWorldConfig, Path, int, np.random.Generator], dict[str, Any]]] = {
    "vggss": _vggss,
    "flickr_soundnet": _flickr_soundnet,
    "is3": _is3,
    "avsbench_s4": _avsbench_s4,
    "avsbench_ms3": _avsbench_ms3,
    "extended_vggss": _extended_vggss,
    "extended_flickr": _extended_flickr,
}
