"""Random scenes of colored shapes on textured backgrounds, rendered to an image and an exact segmentation mask.

A scene is a background, an illumination field, and objects drawn back to front. Objects of the vocabulary (6 colors x
4 shapes) have a class; the others are distractors, with a shape or color outside the vocabulary. Image and mask use the
same pixel coverage, so they agree to the pixel; blur, noise and compression affect the image only.
Limits: flat shapes without perspective or shadows; objects move along straight lines.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

COLORS = {
    "red": (0.84, 0.13, 0.13),
    "yellow": (0.93, 0.83, 0.12),
    "green": (0.13, 0.63, 0.18),
    "cyan": (0.15, 0.78, 0.83),
    "blue": (0.14, 0.24, 0.86),
    "pink": (0.97, 0.52, 0.78),
}
SHAPES = ("circle", "triangle", "cross", "bar")
CLASSES = tuple(f"{color} {shape}" for color in COLORS for shape in SHAPES)
NO_CLASS = -1

_DISTRACTOR_COLORS = ((0.12, 0.12, 0.12), (0.94, 0.94, 0.94), (0.5, 0.5, 0.5), (0.42, 0.27, 0.16), (0.75, 0.65, 0.52))
_BACKGROUNDS = ("clouds", "ramp", "grain", "waves")
_HELD_OUT_BACKGROUNDS = ("tiles", "ripples")
_SUPERSAMPLING = 4
_THREE_OBJECTS_PROBABILITY = 0.8


def _regular(corners: int, radius: float, inner: float = 1.0) -> np.ndarray:
    """Corners of a regular polygon; `inner` scales the radius of every second corner, which makes a star."""
    angle = np.arange(corners) * 2 * np.pi / corners - np.pi / 2
    r = np.where(np.arange(corners) % 2 == 0, radius, radius * inner)
    return np.stack([r * np.cos(angle), r * np.sin(angle)], axis=1)


def _cross(arm: float, width: float) -> np.ndarray:
    a, w = arm, width
    return np.array(
        [(-w, -a), (w, -a), (w, -w), (a, -w), (a, w), (w, w), (w, a), (-w, a), (-w, w), (-a, w), (-a, -w), (-w, -w)]
    )


def _bar(length: float, width: float) -> np.ndarray:
    return np.array([(-length, -width), (length, -width), (length, width), (-length, width)])


def _arch(corners: int) -> np.ndarray:
    """Half of a ring."""
    angle = np.linspace(np.pi, 2 * np.pi, corners)
    arc = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.concatenate([arc * 1.3, arc[::-1] * 0.75]) + np.array([0, 0.5])


# Polygons around (0, 0); those of the vocabulary have about the area of the unit circle. The second polygon is a hole.
_OUTLINES: dict[str, tuple[np.ndarray, ...]] = {
    "circle": (_regular(48, 1.0),),
    "square": (_regular(4, 1.25) @ np.array([[1, 1], [-1, 1]]) / np.sqrt(2),),
    "triangle": (_regular(3, 1.45),),
    "star": (_regular(10, 1.5, inner=0.48),),
    "cross": (_cross(1.2, 0.42),),
    "ring": (_regular(48, 1.25), _regular(48, 0.75)),
    "bar": (_bar(1.45, 0.55),),
    "arch": (_arch(24),),
    "line": (_bar(2.2, 0.12),),
}
_DISTRACTOR_SHAPES = tuple(name for name in _OUTLINES if name not in SHAPES)


@dataclass(frozen=True)
class SceneObject:
    """One shape. Lengths are fractions of the image side."""

    class_id: int  # index into CLASSES, or NO_CLASS for a distractor
    shape: str
    color: tuple[float, float, float]
    x: float
    y: float
    radius: float
    angle: float
    x_per_s: float
    y_per_s: float
    shading: tuple[float, float]  # change of brightness from the center to the right and to the bottom edge


@dataclass(frozen=True)
class Scene:
    """The content of an image; later objects occlude earlier ones."""

    background: np.ndarray  # float32 [H_px, W_px, 3], 0..1, illumination included
    illumination: np.ndarray  # float32 [H_px, W_px, 1], a factor around 1
    objects: tuple[SceneObject, ...]
    noise: np.ndarray  # float32 [H_px, W_px, 3], added after a shift that depends on time
    blur_px: float

    @property
    def class_ids(self) -> tuple[int, ...]:
        """The classes in the scene, in ascending order."""
        return tuple(sorted(item.class_id for item in self.objects if item.class_id != NO_CLASS))


def random_scene(
    rng: np.random.Generator, size_px: int = 128, class_ids: tuple[int, ...] = (), held_out_background: bool = False
) -> Scene:
    """Sample a scene of 2 or 3 objects of distinct classes and several distractors.

    Args:
        rng: the only source of randomness.
        size_px: side of the square image.
        class_ids: classes that the scene must contain, at most three.
        held_out_background: use a texture that scenes without this flag never have.
    """
    count = max(len(class_ids), 3 if rng.random() < _THREE_OBJECTS_PROBABILITY else 2)
    others = rng.permutation([k for k in range(len(CLASSES)) if k not in class_ids])
    placed: list[tuple[float, float, float]] = []
    objects = [_class_object(k, rng, placed) for k in (*class_ids, *others[: count - len(class_ids)].tolist())]
    objects += [_distractor(rng, placed) for _ in range(rng.integers(2, 5))]
    texture = str(rng.choice(_HELD_OUT_BACKGROUNDS if held_out_background else _BACKGROUNDS))
    illumination = _illumination(rng, size_px)
    return Scene(
        background=_background(rng, size_px, texture) * illumination,
        illumination=illumination,
        objects=tuple(objects[i] for i in rng.permutation(len(objects))),
        noise=rng.standard_normal((size_px, size_px, 3), np.float32) * np.float32(rng.uniform(0.01, 0.035)),
        blur_px=float(rng.uniform(0.0, 0.5)),
    )


def render(scene: Scene, t_s: float = 0.0) -> np.ndarray:
    """Render the scene at time `t_s` in seconds.

    Returns:
        uint8 [H_px, W_px, 3], RGB.
    """
    image = scene.background.copy()
    size_px = len(image)
    for item in scene.objects:
        rows, columns, coverage = _coverage(item, t_s, size_px)
        shade = _ramp(coverage.shape, item.shading)[..., None] * scene.illumination[rows, columns]
        patch = image[rows, columns]
        patch += coverage[..., None] * (shade * np.asarray(item.color, np.float32) - patch)
    step = round(t_s * 1000)
    image += np.roll(scene.noise, (37 * step, 59 * step), axis=(0, 1))
    np.clip(image, 0, 1, out=image)
    image *= 255
    pixels = np.rint(image, out=image).astype(np.uint8)
    if scene.blur_px < 0.1:
        return pixels
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.BoxBlur(scene.blur_px)))


def class_mask(scene: Scene, t_s: float = 0.0) -> np.ndarray:
    """The class visible at each pixel at time `t_s` in seconds.

    Returns:
        int16 [H_px, W_px]: an index into CLASSES, or NO_CLASS for background and distractors. A pixel belongs to the
        last object drawn that covers at least half of it.
    """
    size_px = len(scene.background)
    class_ids = np.full((size_px, size_px), NO_CLASS, np.int16)
    for item in scene.objects:
        rows, columns, coverage = _coverage(item, t_s, size_px)
        class_ids[rows, columns][coverage >= 0.5] = item.class_id
    return class_ids


def _class_object(class_id: int, rng: np.random.Generator, placed: list[tuple[float, float, float]]) -> SceneObject:
    color, shape = CLASSES[class_id].split()
    return _place_object(class_id, shape, COLORS[color], float(rng.uniform(0.15, 0.21)), rng, placed)


def _distractor(rng: np.random.Generator, placed: list[tuple[float, float, float]]) -> SceneObject:
    """A distractor shape in the color of a class or, just as often, the shape of a class in a distractor color."""
    if rng.random() < 0.5:
        shape, color = str(rng.choice(_DISTRACTOR_SHAPES)), list(COLORS.values())[rng.integers(len(COLORS))]
    else:
        shape, color = str(rng.choice(SHAPES)), _DISTRACTOR_COLORS[rng.integers(len(_DISTRACTOR_COLORS))]
    return _place_object(NO_CLASS, shape, color, float(rng.uniform(0.07, 0.13)), rng, placed)


def _place_object(
    class_id: int,
    shape: str,
    color: tuple[float, float, float],
    radius: float,
    rng: np.random.Generator,
    placed: list[tuple[float, float, float]],
) -> SceneObject:
    """Sample a position with little overlap with the placed objects, shrinking the object until there is one."""
    shrunk = radius
    while True:
        x, y = rng.uniform(shrunk * 0.9, 1 - shrunk * 0.9, 2)
        if all(np.hypot(x - px, y - py) > 0.95 * (shrunk + pr) for px, py, pr in placed):
            break
        shrunk *= 0.99
    placed.append((x, y, shrunk))
    jittered = np.clip(np.asarray(color) + rng.normal(0, 0.03, 3), 0, 1)
    return SceneObject(
        class_id=class_id,
        shape=shape,
        color=tuple(jittered.tolist()),
        x=float(x),
        y=float(y),
        radius=float(shrunk),
        angle=float(rng.uniform(-np.pi, np.pi) if class_id == NO_CLASS else rng.uniform(-0.5, 0.5)),
        x_per_s=float(rng.normal(0, 0.025)),
        y_per_s=float(rng.normal(0, 0.025)),
        shading=tuple(rng.uniform(-0.15, 0.15, 2).tolist()),
    )


def _coverage(item: SceneObject, t_s: float, size_px: int) -> tuple[slice, slice, np.ndarray]:
    """The rows and columns that an object occupies, and the fraction of each of these pixels it covers: float32."""
    cos, sin, scale = math.cos(item.angle), math.sin(item.angle), item.radius * size_px
    turn = np.array([[cos, sin], [-sin, cos]]) * scale
    center = ((item.x + item.x_per_s * t_s) * size_px, (item.y + item.y_per_s * t_s) * size_px)
    polygons = [outline @ turn + center for outline in _OUTLINES[item.shape]]
    left, top = (max(int(side), 0) for side in polygons[0].min(axis=0))
    right, bottom = (min(int(side) + 1, size_px) for side in polygons[0].max(axis=0))
    if left >= right or top >= bottom:
        return slice(0, 0), slice(0, 0), np.zeros((0, 0), np.float32)
    canvas = Image.new("L", ((right - left) * _SUPERSAMPLING, (bottom - top) * _SUPERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    for fill, polygon in zip((255, 0), polygons, strict=False):
        draw.polygon(((polygon - (left, top)) * _SUPERSAMPLING).ravel().tolist(), fill=fill)
    coverage = np.asarray(canvas.reduce(_SUPERSAMPLING), np.float32)
    return slice(top, bottom), slice(left, right), coverage * np.float32(1 / 255)


def _ramp(shape: tuple[int, ...], slopes: tuple[float, float]) -> np.ndarray:
    """Brightness of 1 in the center, changing linearly by the slopes to the right and bottom edges: float32 [h, w]."""
    height, width = shape
    across = np.arange(width, dtype=np.float32) * (2 * slopes[0] / max(width - 1, 1)) - slopes[0]
    down = np.arange(height, dtype=np.float32) * (2 * slopes[1] / max(height - 1, 1)) - slopes[1]
    return 1 + across + down[:, None]


def _smooth_noise(rng: np.random.Generator, size_px: int, cells: int) -> np.ndarray:
    """Uniform noise on a coarse grid, interpolated: float32 [size_px, size_px], about -1..1."""
    coarse = rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((size_px, size_px), Image.Resampling.BICUBIC), np.float32)


def _background(rng: np.random.Generator, size_px: int, texture: str) -> np.ndarray:
    y, x = np.mgrid[0:size_px, 0:size_px].astype(np.float32) / size_px
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * x + np.sin(angle) * y
    match texture:
        case "clouds":
            value = sum(_smooth_noise(rng, size_px, 2 ** (octave + 1)) / 2**octave for octave in range(4)) / 1.5
        case "ramp":
            value = 1.6 * (along - along.mean()) + 0.2 * _smooth_noise(rng, size_px, 8)
        case "grain":
            value = 0.7 * _smooth_noise(rng, size_px, size_px // 3) + 0.5 * _smooth_noise(rng, size_px, 3)
        case "waves":
            value = np.sin(2 * np.pi * (rng.uniform(2, 7) * along + 0.15 * _smooth_noise(rng, size_px, 3)))
        case "tiles":
            cells = rng.integers(4, 9)
            value = 0.6 * np.sign(np.sin(np.pi * cells * x) * np.sin(np.pi * cells * y)) + 0.3 * _smooth_noise(
                rng, size_px, 4
            )
        case "ripples":
            value = np.sin(
                2 * np.pi * rng.uniform(3, 8) * np.hypot(x - rng.uniform(), y - rng.uniform()) + rng.uniform(0, 6)
            )
    gray = rng.uniform(0.3, 0.7) + rng.uniform(0.06, 0.2) * value
    tint = 1 + rng.uniform(-0.07, 0.07, 3)
    return np.clip(gray[..., None] * tint, 0, 1).astype(np.float32)


def _illumination(rng: np.random.Generator, size_px: int) -> np.ndarray:
    field = 1 + rng.uniform(-0.15, 0.1) + rng.uniform(0, 0.15) * _smooth_noise(rng, size_px, 2)
    return field[..., None].astype(np.float32)
