"""Augmentations of a training clip: values worked out by hand, frequencies, and every mask and weight."""

import numpy as np
import pytest
import torch

from configs.schema import AugmentConfig
from pipelines.stream.augment import (
    ImageAugmentation,
    pad_or_crop,
    quad_mixup,
    random_time_window,
    resize_center_crop,
    splice,
)
from pipelines.stream.seeding import seeded_rng

RATE_HZ = 1000
PLAIN = {"crop_scale_min": 1.0, "flip_probability": 0.0, "color_jitter": 0.0, "grayscale_probability": 0.0}


def _image(height_px, width_px):
    """An image whose pixels encode their position: red = row, green = column, blue = 7."""
    rows, columns = torch.meshgrid(torch.arange(height_px), torch.arange(width_px), indexing="ij")
    return torch.stack([rows, columns, torch.full_like(rows, 7)]).to(torch.uint8)


def test_short_waveform_is_zero_padded_and_long_one_cropped():
    waveform, mask = pad_or_crop(np.full(3, 0.5, dtype=np.float32), 5)
    assert waveform.tolist() == [0.5, 0.5, 0.5, 0, 0]
    assert mask.tolist() == [True, True, True, False, False]
    waveform, mask = pad_or_crop(np.arange(7, dtype=np.float32), 5)
    assert waveform.tolist() == [0, 1, 2, 3, 4]
    assert mask.all()


def test_splice_holds_the_other_clip_with_a_raised_cosine_at_both_ends():
    """1.2 s at 1 kHz: a quarter is 300 samples, the shortest fade 200."""
    settings = AugmentConfig(audio_splice_min_s=1.2, audio_splice_max_s=1.2, audio_splice_fade_min_s=0.2)
    own, other = np.ones(3000, dtype=np.float32), np.full(2000, -1, dtype=np.float32)
    mixed, weight = splice(own, np.ones(3000, dtype=bool), other, seeded_rng(0), settings, RATE_HZ)
    start = int(np.flatnonzero(weight < 1)[0])
    stretch = weight[start : start + 1200]
    assert (np.delete(weight, np.arange(start, start + 1200)) == 1).all()
    assert (stretch[300:900] == 0).all()
    assert (stretch[:300] > 0).all()
    assert stretch[:300] == pytest.approx([(1 + np.cos(np.pi * (i + 0.5) / 300)) / 2 for i in range(300)], abs=1e-6)
    assert stretch[900:] == pytest.approx(stretch[:300][::-1])
    assert mixed == pytest.approx(weight - (1 - weight), abs=1e-6)
    assert (own == 1).all()


@pytest.mark.parametrize(("splice_s", "fade_samples"), [(4.0, 1000), (1.0, 500), (0.6, 300), (1.8, 500)])
def test_fade_is_a_quarter_of_the_splice_at_least_half_a_second_and_at_most_half_of_it(splice_s, fade_samples):
    settings = AugmentConfig(audio_splice_min_s=splice_s, audio_splice_max_s=splice_s, audio_splice_fade_min_s=0.5)
    weight = splice(
        np.ones(9000, np.float32), np.ones(9000, bool), np.zeros(9000, np.float32), seeded_rng(1), settings, RATE_HZ
    )[1]
    assert ((weight > 0) & (weight < 1)).sum() == 2 * fade_samples
    assert (weight < 1).sum() == 1000 * splice_s


def test_splice_covers_all_offsets_in_the_audio_and_none_in_the_padding():
    settings = AugmentConfig(audio_splice_min_s=0.1, audio_splice_max_s=0.4, audio_splice_fade_min_s=0.05)
    waveform, mask = pad_or_crop(np.ones(1000, np.float32), 2000)
    lengths, places = [], []
    for key in range(400):
        mixed, weight = splice(waveform, mask, np.full(500, 2, np.float32), seeded_rng(key), settings, RATE_HZ)
        changed = np.flatnonzero(weight < 1)
        lengths.append(len(changed))
        places.append(changed[0])
        assert changed[-1] < 1000
        assert (weight[1000:] == 1).all()
        assert (mixed[1000:] == 0).all()
    assert 95 <= min(lengths) < 110
    assert 390 < max(lengths) <= 400
    assert min(places) < 20
    assert max(place + length for place, length in zip(places, lengths, strict=True)) > 980


def test_splice_one_sample_shorter_than_the_clip_has_two_possible_offsets():
    settings = AugmentConfig(audio_splice_min_s=1.0, audio_splice_max_s=1.0)
    own, other = pad_or_crop(np.ones(1001, np.float32), 1100), np.zeros(1001, np.float32)
    changed = [np.flatnonzero(splice(*own, other, seeded_rng(key), settings, RATE_HZ)[1] < 1) for key in range(40)]
    assert {(int(places[0]), int(places[-1])) for places in changed} == {(0, 999), (1, 1000)}


def test_splice_not_shorter_than_the_clip_is_skipped():
    settings = AugmentConfig(audio_splice_min_s=1.0, audio_splice_max_s=1.0)
    waveform, mask = pad_or_crop(np.ones(1000, np.float32), 2000)
    mixed, weight = splice(waveform, mask, np.zeros(1500, np.float32), seeded_rng(0), settings, RATE_HZ)
    assert mixed is waveform
    assert (weight == 1).all()
    assert (
        splice(
            *pad_or_crop(np.ones(1001, np.float32), 2000), np.zeros(1500, np.float32), seeded_rng(0), settings, RATE_HZ
        )[1]
        < 1
    ).any()


def test_short_other_clip_makes_a_short_splice():
    settings = AugmentConfig(audio_splice_min_s=1.0, audio_splice_max_s=4.0)
    weight = splice(
        np.ones(5000, np.float32), np.ones(5000, bool), np.zeros(300, np.float32), seeded_rng(0), settings, RATE_HZ
    )[1]
    assert (weight < 1).sum() == 300
    weight = splice(
        np.ones(5000, np.float32), np.ones(5000, bool), np.zeros(0, np.float32), seeded_rng(0), settings, RATE_HZ
    )[1]
    assert (weight == 1).all()


def test_time_window_zeroes_and_masks_everything_else():
    waveform, mask = pad_or_crop(np.ones(1000, np.float32), 1500)
    lengths, starts = [], []
    for key in range(300):
        masked, window = random_time_window(waveform, mask, seeded_rng(key), 500)
        inside = np.flatnonzero(window)
        assert (np.diff(inside) == 1).all()
        assert inside[-1] < 1000
        assert (masked == window).all()
        lengths.append(len(inside))
        starts.append(inside[0])
    assert min(lengths) >= 500
    assert min(lengths) < 520
    assert max(lengths) > 980
    assert min(starts) == 0
    assert max(starts) > 350
    assert random_time_window(waveform, mask, seeded_rng(0), 1000)[1] is mask


def test_quad_mixup_is_four_halved_images_and_its_weight_marks_the_clips_own():
    images = [torch.full((3, 8, 8), value, dtype=torch.uint8) for value in (10, 20, 30, 40)]
    places = set()
    for key in range(40):
        grid, weight = quad_mixup(images[0], images[1:], seeded_rng(key))
        assert grid.dtype == torch.uint8
        quadrants = [
            grid[0, rows, columns] for rows in (slice(0, 4), slice(4, 8)) for columns in (slice(0, 4), slice(4, 8))
        ]
        values = [int(quadrant.unique()) for quadrant in quadrants]
        assert sorted(values) == [10, 20, 30, 40]
        assert torch.equal(weight, (grid[0] == 10).float())
        places.add(tuple(values))
    assert len(places) > 15


def test_quad_mixup_of_an_odd_size_covers_every_pixel():
    images = [torch.full((3, 9, 9), value, dtype=torch.uint8) for value in (10, 20, 30, 40)]
    grid, weight = quad_mixup(images[0], images[1:], seeded_rng(0))
    assert set(grid.unique().tolist()) == {10, 20, 30, 40}
    assert torch.equal(weight, (grid[0] == 10).float())


def test_images_are_downsampled_without_aliasing():
    image = torch.randint(256, (3, 40, 40), dtype=torch.uint8)
    grid, weight = quad_mixup(image, [torch.zeros_like(image)] * 3, seeded_rng(0))
    for small in (grid[:, weight.bool()].view(3, 20, 20), resize_center_crop(image, 10)):
        smooth = torch.nn.functional.interpolate(image[None].float(), small.shape[1:], mode="bilinear", antialias=True)[
            0
        ]
        assert (small.float() - smooth).abs().max() < 1.5


def test_evaluation_takes_the_center_crop_of_the_resized_image():
    out = resize_center_crop(_image(40, 60), 20)
    assert out.shape == (3, 20, 20)
    assert (out[0, :, 0].tolist(), out[2].unique().tolist()) == (
        resize_center_crop(_image(40, 40), 20)[0, :, 0].tolist(),
        [7],
    )
    assert out[1].float().mean() == pytest.approx(29.5, abs=0.6)
    assert torch.equal(resize_center_crop(_image(20, 20), 20), _image(20, 20))
    assert torch.equal(resize_center_crop(_image(20, 30), 20), _image(20, 30)[:, :, 5:25])
    assert resize_center_crop(_image(10, 12), 20).shape == (3, 20, 20)


def test_identity_settings_give_the_evaluation_image():
    image = _image(30, 44)
    out = ImageAugmentation(AugmentConfig(**PLAIN), 16)(image, seeded_rng(0))
    assert torch.equal(out, resize_center_crop(image, 16))


def test_each_augmentation_occurs_with_its_probability():
    flip = ImageAugmentation(AugmentConfig(**PLAIN | {"flip_probability": 0.3}), 20)
    flipped = sum(torch.equal(flip(_image(20, 20), seeded_rng(key)), _image(20, 20).flip(-1)) for key in range(400))
    assert 85 <= flipped <= 155
    gray = ImageAugmentation(AugmentConfig(**PLAIN | {"grayscale_probability": 0.1}), 20)
    grays = sum(bool((out := gray(_image(20, 20), seeded_rng(key)))[0].equal(out[2])) for key in range(400))
    assert 20 <= grays <= 65


def test_random_crop_covers_at_least_the_minimum_area():
    crop = ImageAugmentation(AugmentConfig(**PLAIN | {"crop_scale_min": 0.5}), 32)
    spans = []
    for key in range(60):
        out = crop(_image(100, 100), seeded_rng(key)).float()
        spans.append((out[0].max() - out[0].min() + 1) * (out[1].max() - out[1].min() + 1) / 100**2)
    assert min(spans) > 0.45
    assert min(spans) < 0.6
    assert max(spans) > 0.9


def test_color_jitter_changes_colors():
    jitter = ImageAugmentation(AugmentConfig(**PLAIN | {"color_jitter": 0.2}), 20)
    means = [
        float(jitter(torch.full((3, 20, 20), 128, dtype=torch.uint8), seeded_rng(key)).float().mean())
        for key in range(50)
    ]
    assert 100 <= min(means) < 120
    assert 136 < max(means) <= 156


def test_image_augmentation_depends_on_its_generator_only_and_preserves_torchs_state():
    every = ImageAugmentation(AugmentConfig(), 24)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = [every(_image(40, 50), seeded_rng(key)) for key in range(5)]
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert all(torch.equal(every(_image(40, 50), seeded_rng(key)), first[key]) for key in range(5))
    assert not torch.equal(first[0], first[1])
