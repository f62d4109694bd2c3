"""Pictures of the toy world: shapes are where, and as large as, their masks say."""

import numpy as np
import pytest

from pipelines.toy_world import scene
from pipelines.toy_world.scene import CLASSES, NO_CLASS, Scene, Thing


def plain_scene(*things: Thing, size_px: int = 64) -> Scene:
    blank = np.full((size_px, size_px, 3), 0.5, np.float32)
    return Scene(
        background=blank,
        light=np.ones((size_px, size_px, 1), np.float32),
        things=things,
        noise=np.zeros_like(blank),
        blur_px=0.0,
    )


def still(
    kind: int, x: float, y: float, radius: float, shape: str = "", colour=(1.0, 0.0, 0.0), x_per_s: float = 0.0
) -> Thing:
    shape = shape or CLASSES[kind].split()[1]
    return Thing(kind, shape, colour, x, y, radius, angle=0.0, x_per_s=x_per_s, y_per_s=0.0, shading=(0.0, 0.0))


def test_there_are_24_classes_and_class_id_finds_each():
    assert len(set(CLASSES)) == 24
    assert [scene.class_id(name) for name in CLASSES] == list(range(24))


def test_a_circle_covers_pi_r_squared_pixels_and_is_painted_where_the_mask_says():
    red_circle = scene.class_id("red circle")
    picture = plain_scene(still(red_circle, 0.5, 0.5, 0.25))
    kinds, image = scene.mask(picture), scene.render(picture)
    assert (kinds == red_circle).sum() == pytest.approx(np.pi * 16**2, rel=0.02)
    assert set(np.unique(kinds)) == {NO_CLASS, red_circle}
    assert (image[kinds == red_circle][:, 0] >= 190).all()
    assert (image[kinds == NO_CLASS][:, 0] <= 192).all()


def test_a_shape_lies_where_it_was_put():
    for x, y in np.random.default_rng(0).uniform(0.3, 0.7, (20, 2)):
        rows, columns = np.nonzero(scene.mask(plain_scene(still(0, x, y, 0.2))) == 0)
        assert columns.mean() + 0.5 == pytest.approx(x * 64, abs=0.15)
        assert rows.mean() + 0.5 == pytest.approx(y * 64, abs=0.15)


def test_the_later_thing_hides_the_earlier_one_and_a_distractor_hides_without_a_class():
    below, above = still(0, 0.4, 0.5, 0.2), still(9, 0.6, 0.5, 0.2)
    cover = still(NO_CLASS, 0.6, 0.5, 0.2, shape="square", colour=(0.5, 0.5, 0.5))
    assert scene.mask(plain_scene(below, above))[32, 32] == 9
    assert scene.mask(plain_scene(above, below))[32, 32] == 0
    assert scene.mask(plain_scene(below, above, cover))[32, 40] == NO_CLASS


def test_a_ring_has_a_hole():
    kinds = scene.mask(plain_scene(still(5, 0.5, 0.5, 0.2, shape="ring")))
    assert kinds[32, 32] == NO_CLASS
    assert kinds[32, 32 + 13] == 5


def test_things_drift_with_time_and_may_leave_the_picture():
    mover = plain_scene(still(0, 0.5, 0.5, 0.1, x_per_s=0.25))
    x_px = [np.nonzero(scene.mask(mover, t) == 0)[1].mean() for t in (0.0, 1.0)]
    assert x_px[1] - x_px[0] == pytest.approx(16, abs=0.1)
    assert (scene.mask(mover, 4.0) == NO_CLASS).all()


def test_scenes_hold_two_or_three_distinct_visible_classes_with_the_wanted_ones_among_them():
    for number in range(60):
        picture = scene.scene(np.random.default_rng(number), 64, kinds=(number % 24,))
        assert len(picture.kinds) in (2, 3)
        assert len(set(picture.kinds)) == len(picture.kinds)
        assert number % 24 in picture.kinds
        assert len(picture.things) - len(picture.kinds) >= 2
        visible = scene.mask(picture)
        assert all((visible == kind).sum() > 40 for kind in picture.kinds)


def test_the_same_random_numbers_give_the_same_picture():
    first, second = (scene.render(scene.scene(np.random.default_rng(5), 64), 0.7) for _ in range(2))
    assert (first == second).all()
