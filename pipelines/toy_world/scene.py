"""Pictures of the toy world: textured scenes with coloured shapes, and the exact mask of every named shape.

A scene is a background, a light, and things drawn back to front. Things of the vocabulary (6 colours x 4 shapes) have a class; the others
(shapes without a name, colours without a name) only distract. Picture and mask come from the same coverage, so they agree to the pixel; blur,
noise and compression touch the picture alone.
Limits: flat shapes without perspective or shadows; things drift in straight lines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

COLOURS = {
    "red": (0.84, 0.13, 0.13),
    "yellow": (0.93, 0.83, 0.12),
    "green": (0.13, 0.63, 0.18),
    "cyan": (0.15, 0.78, 0.83),
    "blue": (0.14, 0.24, 0.86),
    "pink": (0.97, 0.52, 0.78),
}
SHAPES = ("circle", "triangle", "cross", "bar")
CLASSES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
NO_CLASS = -1

_NAMELESS_COLOURS = ((0.12, 0.12, 0.12), (0.94, 0.94, 0.94), (0.5, 0.5, 0.5), (0.42, 0.27, 0.16), (0.75, 0.65, 0.52))
_BACKGROUNDS = ("clouds", "ramp", "grain", "waves")
_UNSEEN_BACKGROUNDS = ("tiles", "ripples")
_SUPERSAMPLING = 4


def class_id(name: str) -> int:
    """The number of a class, its place in CLASSES."""
    return CLASSES.index(name)


def _regular(corners: int, radius: float, inner: float = 1.0) -> np.ndarray:
    """Corners of a regular polygon; with `inner` below 1 every second corner is pulled in (a star has twice as many)."""
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
    """A half ring."""
    angle = np.linspace(np.pi, 2 * np.pi, corners)
    arc = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.concatenate([arc * 1.3, arc[::-1] * 0.75]) + np.array([0, 0.5])


# Outlines around (0, 0), of about the area of the unit circle where the shape has a name. The second polygon is a hole.
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
_NAMELESS_SHAPES = tuple(name for name in _OUTLINES if name not in SHAPES)


@dataclass(frozen=True)
class Thing:
    """One shape. Lengths are shares of the image side, times are seconds."""

    kind: int  # class, or NO_CLASS
    shape: str
    colour: tuple[float, float, float]
    x: float
    y: float
    radius: float
    angle: float
    x_per_s: float
    y_per_s: float
    shading: tuple[float, float]  # change of brightness from the centre to the edge, rightwards and downwards


@dataclass(frozen=True)
class Scene:
    """Everything a picture needs; `things` are drawn in order, so later ones hide earlier ones."""

    background: np.ndarray  # float32 [H_px, W_px, 3], 0..1, already lit
    light: np.ndarray  # float32 [H_px, W_px, 1], a factor around 1
    things: tuple[Thing, ...]
    noise: np.ndarray  # float32 [H_px, W_px, 3], added after a shift that depends on the time
    blur_px: float

    @property
    def kinds(self) -> tuple[int, ...]:
        """The classes in the scene, in ascending order."""
        return tuple(sorted(thing.kind for thing in self.things if thing.kind != NO_CLASS))


def scene(
    rng: np.random.Generator, size_px: int = 128, kinds: tuple[int, ...] = (), unseen_background: bool = False
) -> Scene:
    """Draw a random scene of 2 or 3 distinct classes and several distractors.

    Args:
        rng: the only source of randomness.
        size_px: side of the square picture.
        kinds: classes that must be among the objects, three at most.
        unseen_background: take a texture that scenes without this flag never have.

    Returns:
        A scene whose classes are all different.
    """
    count = max(len(kinds), 3 if rng.random() < _SHARE_OF_THREE else 2)
    others = rng.permutation([k for k in range(len(CLASSES)) if k not in kinds])
    chosen = [*kinds, *(int(k) for k in others[: count - len(kinds)])]
    placed: list[tuple[float, float, float]] = []
    things = [_named_thing(kind, rng, placed) for kind in chosen]
    things += [_distractor(rng, placed) for _ in range(rng.integers(2, 5))]
    texture = str(rng.choice(_UNSEEN_BACKGROUNDS if unseen_background else _BACKGROUNDS))
    light = _light(rng, size_px)
    return Scene(
        background=_background(rng, size_px, texture) * light,
        light=light,
        things=tuple(things[i] for i in rng.permutation(len(things))),
        noise=rng.standard_normal((size_px, size_px, 3), np.float32) * np.float32(rng.uniform(0.01, 0.035)),
        blur_px=float(rng.uniform(0.0, 0.5)),
    )


def render(picture: Scene, t_s: float = 0.0) -> np.ndarray:
    """Draw the scene at a time.

    Returns:
        uint8 [H_px, W_px, 3], RGB.
    """
    image = picture.background.copy()
    size_px = len(image)
    for thing in picture.things:
        rows, columns, coverage = _coverage(thing, t_s, size_px)
        shade = _ramp(coverage.shape, thing.shading)[..., None] * picture.light[rows, columns]
        patch = image[rows, columns]
        patch += coverage[..., None] * (shade * np.asarray(thing.colour, np.float32) - patch)
    step = round(t_s * 1000)
    image += np.roll(picture.noise, (37 * step, 59 * step), axis=(0, 1))
    np.clip(image, 0, 1, out=image)
    image *= 255
    picture_bytes = np.rint(image, out=image).astype(np.uint8)
    if picture.blur_px < 0.1:
        return picture_bytes
    return np.asarray(Image.fromarray(picture_bytes).filter(ImageFilter.BoxBlur(picture.blur_px)))


def mask(picture: Scene, t_s: float = 0.0) -> np.ndarray:
    """Which class is seen at each pixel.

    Returns:
        int16 [H_px, W_px]: the class, or NO_CLASS for background and distractors. A pixel belongs to the last drawn thing that covers half of it.
    """
    size_px = len(picture.background)
    kinds = np.full((size_px, size_px), NO_CLASS, np.int16)
    for thing in picture.things:
        rows, columns, coverage = _coverage(thing, t_s, size_px)
        kinds[rows, columns][coverage >= 0.5] = thing.kind
    return kinds


_SHARE_OF_THREE = 0.8


def _named_thing(kind: int, rng: np.random.Generator, placed: list[tuple[float, float, float]]) -> Thing:
    colour, shape = CLASSES[kind].split()
    return _thing(kind, shape, COLOURS[colour], float(rng.uniform(0.15, 0.21)), rng, placed)


def _distractor(rng: np.random.Generator, placed: list[tuple[float, float, float]]) -> Thing:
    """Half of them a shape without a name in a class's colour, half a class's shape in a colour without a name."""
    if rng.random() < 0.5:
        shape, colour = str(rng.choice(_NAMELESS_SHAPES)), list(COLOURS.values())[rng.integers(len(COLOURS))]
    else:
        shape, colour = str(rng.choice(SHAPES)), _NAMELESS_COLOURS[rng.integers(len(_NAMELESS_COLOURS))]
    return _thing(NO_CLASS, shape, colour, float(rng.uniform(0.07, 0.13)), rng, placed)


def _thing(
    kind: int, shape: str, colour: tuple[float, float, float], radius: float, rng: np.random.Generator, placed: list
) -> Thing:
    """Put a shape where it overlaps the placed ones little, shrinking it slowly while there is no room."""
    shrunk = radius
    while True:
        x, y = rng.uniform(shrunk * 0.9, 1 - shrunk * 0.9, 2)
        if all(np.hypot(x - px, y - py) > 0.95 * (shrunk + pr) for px, py, pr in placed):
            break
        shrunk *= 0.99
    placed.append((x, y, shrunk))
    jittered = np.clip(np.asarray(colour) + rng.normal(0, 0.03, 3), 0, 1)
    return Thing(
        kind=kind,
        shape=shape,
        colour=tuple(jittered.tolist()),
        x=float(x),
        y=float(y),
        radius=float(shrunk),
        angle=float(rng.uniform(-np.pi, np.pi) if kind == NO_CLASS else rng.uniform(-0.5, 0.5)),
        x_per_s=float(rng.normal(0, 0.025)),
        y_per_s=float(rng.normal(0, 0.025)),
        shading=tuple(rng.uniform(-0.15, 0.15, 2).tolist()),
    )


def _coverage(thing: Thing, t_s: float, size_px: int) -> tuple[slice, slice, np.ndarray]:
    """The share of each pixel that a thing covers, float32 0..1, on the rows and columns it reaches."""
    cos, sin, scale = math.cos(thing.angle), math.sin(thing.angle), thing.radius * size_px
    turn = np.array([[cos, sin], [-sin, cos]]) * scale
    centre = ((thing.x + thing.x_per_s * t_s) * size_px, (thing.y + thing.y_per_s * t_s) * size_px)
    polygons = [outline @ turn + centre for outline in _OUTLINES[thing.shape]]
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


def _ramp(shape: tuple[int, int], slopes: tuple[float, float]) -> np.ndarray:
    """A brightness of 1 in the middle that changes by the slopes towards the right and the bottom edge: float32 [h, w]."""
    tall, wide = shape
    across = np.arange(wide, dtype=np.float32) * (2 * slopes[0] / max(wide - 1, 1)) - slopes[0]
    down = np.arange(tall, dtype=np.float32) * (2 * slopes[1] / max(tall - 1, 1)) - slopes[1]
    return 1 + across + down[:, None]


def _smooth_noise(rng: np.random.Generator, size_px: int, cells: int) -> np.ndarray:
    """Random values on a coarse grid, interpolated: float32 [size_px, size_px], about -1..1."""
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
    grey = rng.uniform(0.3, 0.7) + rng.uniform(0.06, 0.2) * value
    tint = 1 + rng.uniform(-0.07, 0.07, 3)
    return np.clip(grey[..., None] * tint, 0, 1).astype(np.float32)


def _light(rng: np.random.Generator, size_px: int) -> np.ndarray:
    field = 1 + rng.uniform(-0.15, 0.1) + rng.uniform(0, 0.15) * _smooth_noise(rng, size_px, 2)
    return field[..., None].astype(np.float32)
