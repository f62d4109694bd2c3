"""Scenes of the toy world: rendered shapes agree with their masks in position and size."""

import numpy as np
import pytest

from pipelines.toy_world.scene import CLASSES, NO_CLASS, Scene, SceneObject, class_mask, random_scene, render


def plain_scene(*objects: SceneObject, size_px: int = 64) -> Scene:
    blank = np.full((size_px, size_px, 3), 0.5, np.float32)
    return Scene(
        background=blank,
        illumination=np.ones((size_px, size_px, 1), np.float32),
        objects=objects,
        noise=np.zeros_like(blank),
        blur_px=0.0,
    )


def still(
    class_id: int, x: float, y: float, radius: float, shape: str = "", color=(1.0, 0.0, 0.0), x_per_s: float = 0.0
) -> SceneObject:
    shape = shape or CLASSES[class_id].split()[1]
    return SceneObject(
        class_id, shape, color, x, y, radius, angle=0.0, x_per_s=x_per_s, y_per_s=0.0, shading=(0.0, 0.0)
    )


def test_there_are_24_distinct_classes():
    assert len(set(CLASSES)) == 24
    assert [CLASSES.index(name) for name in CLASSES] == list(range(24))


def test_a_circle_covers_pi_r_squared_pixels_in_mask_and_image():
    red_circle = CLASSES.index("red circle")
    scene = plain_scene(still(red_circle, 0.5, 0.5, 0.25))
    class_ids, image = class_mask(scene), render(scene)
    assert (class_ids == red_circle).sum() == pytest.approx(np.pi * 16**2, rel=0.02)
    assert set(np.unique(class_ids)) == {NO_CLASS, red_circle}
    assert (image[class_ids == red_circle][:, 0] >= 190).all()
    assert (image[class_ids == NO_CLASS][:, 0] <= 192).all()


def test_a_shape_is_centered_at_its_position():
    for x, y in np.random.default_rng(0).uniform(0.3, 0.7, (20, 2)):
        rows, columns = np.nonzero(class_mask(plain_scene(still(0, x, y, 0.2))) == 0)
        assert columns.mean() + 0.5 == pytest.approx(x * 64, abs=0.15)
        assert rows.mean() + 0.5 == pytest.approx(y * 64, abs=0.15)


def test_later_objects_occlude_earlier_ones_and_distractors_occlude_without_a_class():
    below, above = still(0, 0.4, 0.5, 0.2), still(9, 0.6, 0.5, 0.2)
    cover = still(NO_CLASS, 0.6, 0.5, 0.2, shape="square", color=(0.5, 0.5, 0.5))
    assert class_mask(plain_scene(below, above))[32, 32] == 9
    assert class_mask(plain_scene(above, below))[32, 32] == 0
    assert class_mask(plain_scene(below, above, cover))[32, 40] == NO_CLASS


def test_a_ring_has_a_hole():
    class_ids = class_mask(plain_scene(still(5, 0.5, 0.5, 0.2, shape="ring")))
    assert class_ids[32, 32] == NO_CLASS
    assert class_ids[32, 32 + 13] == 5


def test_objects_move_with_time_and_may_leave_the_image():
    moving = plain_scene(still(0, 0.5, 0.5, 0.1, x_per_s=0.25))
    x_px = [np.nonzero(class_mask(moving, t) == 0)[1].mean() for t in (0.0, 1.0)]
    assert x_px[1] - x_px[0] == pytest.approx(16, abs=0.1)
    assert (class_mask(moving, 4.0) == NO_CLASS).all()


def test_scenes_have_two_or_three_distinct_visible_classes_including_the_requested_ones():
    for number in range(60):
        scene = random_scene(np.random.default_rng(number), 64, class_ids=(number % 24,))
        assert len(scene.class_ids) in (2, 3)
        assert len(set(scene.class_ids)) == len(scene.class_ids)
        assert number % 24 in scene.class_ids
        assert len(scene.objects) - len(scene.class_ids) >= 2
        visible = class_mask(scene)
        assert all((visible == class_id).sum() > 40 for class_id in scene.class_ids)


def test_the_same_seed_gives_the_same_image():
    first, second = (render(random_scene(np.random.default_rng(5), 64), 0.7) for _ in range(2))
    assert (first == second).all()
