"""Random crops and colors of images: torchvision's own transforms with the same seed, frequencies, quad mixup."""

import pytest
import torch
from tiny_images import position_image
from torchvision.transforms import v2

from configs.schema import AugmentConfig
from pipelines.stream.augment import resize_center_crop
from pipelines.stream.augment_image import ImageDraws
from pipelines.stream.device_color import apply_colors
from pipelines.stream.device_frames import assemble_quads, frame_fields, image_weight
from pipelines.stream.seeding import seeded_rng

PLAIN = {"crop_scale_min": 1.0, "flip_probability": 0.0, "color_jitter": 0.0, "grayscale_probability": 0.0}


def _augment(image, size_px, key, **settings):
    """Draw, crop, and apply the colors: uint8 [3, size_px, size_px]."""
    drawn = ImageDraws(AugmentConfig(**settings))(image, seeded_rng(key))
    return apply_colors(drawn.crop(size_px)[None], torch.tensor([drawn.color.row()]))[0]


def test_identity_settings_give_the_evaluation_image():
    image = position_image(30, 44)
    assert torch.equal(_augment(image, 16, 0, **PLAIN), resize_center_crop(image, 16))


def _smooth_image(seed):
    coarse = torch.rand(1, 3, 9, 12, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(coarse, (90, 120), mode="bilinear")[0] * 255).to(torch.uint8)


def test_augmentation_is_that_of_torchvision_with_the_same_seed():
    """Hue is rounded where torchvision truncates, and what follows it amplifies the level of difference."""
    settings = AugmentConfig()
    every = v2.Compose(
        [
            v2.RandomResizedCrop(48, scale=(settings.crop_scale_min, 1.0), antialias=True),
            v2.RandomHorizontalFlip(settings.flip_probability),
            v2.ColorJitter(*[settings.color_jitter] * 4),
            v2.RandomGrayscale(settings.grayscale_probability),
        ]
    )
    for key in range(60):
        image = _smooth_image(key)
        torch.manual_seed(int(seeded_rng(key).integers(2**63)))
        difference = (every(image).int() - _augment(image, 48, key).int()).abs()
        assert difference.max() <= 4
        assert (difference <= 2).float().mean() > 0.99


def test_each_augmentation_occurs_with_its_probability():
    image = position_image(20, 20)
    flips = [_augment(image, 20, key, **PLAIN | {"flip_probability": 0.3}) for key in range(400)]
    assert 85 <= sum(torch.equal(out, image.flip(-1)) for out in flips) <= 155
    grays = [_augment(image, 20, key, **PLAIN | {"grayscale_probability": 0.1}) for key in range(400)]
    assert 20 <= sum(bool(out[0].equal(out[2])) for out in grays) <= 65


def test_random_crop_covers_at_least_the_minimum_area():
    spans = []
    for key in range(60):
        out = _augment(position_image(100, 100), 32, key, **PLAIN | {"crop_scale_min": 0.5}).float()
        spans.append((out[0].max() - out[0].min() + 1) * (out[1].max() - out[1].min() + 1) / 100**2)
    assert min(spans) > 0.45
    assert min(spans) < 0.6
    assert max(spans) > 0.9


def test_draws_depend_on_their_generator_only_and_preserve_torchs_state():
    draw, image = ImageDraws(AugmentConfig()), position_image(40, 50)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = [draw(image, seeded_rng(key))[1:] for key in range(5)]
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert [draw(image, seeded_rng(key))[1:] for key in range(5)] == first
    assert len(set(first)) == 5


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (9, 8), (1, 1)])
def test_quad_is_four_tiles_and_covers_every_pixel(size):
    half = (size[0] + 1) // 2, (size[1] + 1) // 2
    tiles = torch.arange(8, dtype=torch.uint8)[:, None, None, None].expand(8, 3, *half)
    for number, grid in enumerate(assemble_quads(tiles, size)):
        rows, columns = size[0] // 2, size[1] // 2
        parts = (grid[:, :rows, :columns], grid[:, :rows, columns:], grid[:, rows:, :columns], grid[:, rows:, columns:])
        for quadrant, part in enumerate(parts):
            assert (part == 4 * number + quadrant).all()
            assert torch.equal(
                image_weight(torch.tensor([quadrant]), size)[0], (grid[0] == 4 * number + quadrant) * 1.0
            )
    assert (image_weight(torch.tensor([-1]), size) == 1).all()


@pytest.mark.parametrize("quadrant", [[-1, 2, -1, 0], [-1, -1], [3, 1]])
def test_rows_of_a_batch_keep_their_order(quadrant):
    singles, quads = sum(q < 0 for q in quadrant), sum(q >= 0 for q in quadrant)
    images = torch.arange(singles, dtype=torch.uint8)[:, None, None, None].expand(-1, 6, 6, 3)
    tiles = 100 + torch.arange(4 * quads, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 3, 3)
    colors = torch.tensor([[1.0, 1, 1, 0, 0, 1, 2, 3, 0, 0]]).expand(singles + 4 * quads, -1)
    fields = frame_fields(images, tiles, colors, torch.tensor(quadrant), torch.device("cpu"))
    single, quad = iter(range(singles)), iter(range(quads))
    for row, own in enumerate(quadrant):
        shown = fields["frames"][row][0][fields["image_weight"][row] == 1].unique().tolist()
        assert shown == [next(single) if own < 0 else 100 + 4 * next(quad) + own]
