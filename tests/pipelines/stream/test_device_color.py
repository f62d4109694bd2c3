"""Color transforms of a batch: equal to torchvision's within rounding, each image with its own factor and order."""

import pytest
import torch
from torchvision.transforms.v2 import functional

from pipelines.stream import device_color
from pipelines.stream.device_color import ColorDraw, apply_colors

TRANSFORMS = {
    "brightness": (device_color.adjust_brightness, functional.adjust_brightness, (0.0, 0.5, 0.8, 1.0, 1.2, 1.5)),
    "contrast": (device_color.adjust_contrast, functional.adjust_contrast, (0.0, 0.5, 0.8, 1.0, 1.2, 1.5)),
    "saturation": (device_color.adjust_saturation, functional.adjust_saturation, (0.0, 0.5, 0.8, 1.0, 1.2, 1.5)),
    "hue": (device_color.adjust_hue, functional.adjust_hue, (-0.5, -0.21, -0.04, 0.0, 0.1, 0.2, 0.5)),
    "gray": (device_color.to_gray, lambda image, _: functional.rgb_to_grayscale(image, 3), (0.0,)),
}


def _images(count, height_px=40, width_px=30, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height_px, width_px), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform_of_a_batch_is_that_of_torchvision_for_each_image(name):
    ours, theirs, factors = TRANSFORMS[name]
    images = _images(len(factors))
    found = ours(images, torch.tensor(factors)[:, None, None])
    assert found.dtype == torch.uint8
    for image, factor, out in zip(images, factors, found, strict=True):
        assert (out.int() - theirs(image, factor).int()).abs().max() <= 1


def test_hue_of_every_pair_of_channels_is_that_of_torchvision():
    """All 65536 pairs of red and green, with blue at 0, 100 and 255, so that all six sextants and their edges occur."""
    red, green = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    images = torch.stack([torch.stack([red, green, torch.full_like(red, blue)]) for blue in (0, 100, 255)])
    images = images.to(torch.uint8)
    for shift in (-0.5, -1 / 3, -0.2, -0.01, 0.0, 0.05, 0.2, 0.4):
        found = device_color.adjust_hue(images, torch.full((3, 1, 1), shift)).int()
        assert (found - functional.adjust_hue(images, shift).int()).abs().max() <= 1
    assert torch.equal(device_color.adjust_hue(images, torch.zeros(3, 1, 1)), images)


def _drawn(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        ColorDraw(
            *(0.8 + 0.4 * torch.rand(3, generator=generator)).tolist(),
            float(torch.rand(1, generator=generator)) - 0.5,
            tuple(torch.randperm(4, generator=generator).tolist()),
            flip=number % 3 == 0,
            gray=number % 5 == 0,
        )
        for number in range(count)
    ]


def _rows(drawn):
    return torch.tensor([draw.row() for draw in drawn])


def test_transforms_are_applied_in_the_order_of_each_image():
    images, drawn = _images(30), _drawn(30)
    found = apply_colors(images.permute(0, 2, 3, 1), _rows(drawn))
    steps = [TRANSFORMS[name][0] for name in ("brightness", "contrast", "saturation", "hue")]
    for image, draw, out in zip(images, drawn, found, strict=True):
        expected = image[None]
        for number in draw.order:
            expected = steps[number](expected, torch.tensor(draw[number])[None, None, None])
        expected = functional.rgb_to_grayscale(expected, 3) if draw.gray else expected
        expected = expected.flip(-1) if draw.flip else expected
        assert torch.equal(out, expected[0])


def test_images_do_not_depend_on_the_batch_they_are_in():
    images, rows = _images(21).permute(0, 2, 3, 1), _rows(_drawn(21))
    whole = apply_colors(images, rows)
    for size in (1, 2, 5, 8, 20):
        parts = zip(images.split(size), rows.split(size), strict=True)
        assert torch.equal(torch.cat([apply_colors(*part) for part in parts]), whole)


def test_a_draw_that_changes_nothing_leaves_the_image():
    images = _images(3)
    assert torch.equal(apply_colors(images.permute(0, 2, 3, 1), _rows([ColorDraw()] * 3)), images)
    assert apply_colors(images[:0].permute(0, 2, 3, 1), torch.empty(0, 10)).shape == (0, 3, 40, 30)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_image_within_rounding_without_being_waited_for():
    images, rows = _images(40, 224, 224).permute(0, 2, 3, 1), _rows(_drawn(40))
    on_gpu = images.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = apply_colors(on_gpu, rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (found.cpu().int() - apply_colors(images, rows).int()).abs().max() <= 2
