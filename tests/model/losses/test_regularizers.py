"""Regularizers against values worked out by hand and slow loops."""

import dataclasses
import itertools

import pytest
import torch

from model.features import AudioFeatures, ImageFeatures
from model.losses import regularizers
from model.losses.contrastive import LogitScale
from model.losses.inputs import LossInputs

B, K, C, H, W, T = 4, 2, 5, 3, 2, 6


def _inputs(audio, image, mask=None, **changes):
    """Inputs of B pairs: audio [B K C T], image [B K C H W]; by default nothing is masked out, spliced or mixed."""
    pairs, _, _, steps = audio.shape
    defaults = {
        "logit_scale": LogitScale(torch.zeros((), dtype=audio.dtype)),
        "audio_positive_weight": torch.ones(pairs, steps),
        "image_weight": torch.ones(pairs, *image.shape[-2:]),
        "source": torch.zeros(pairs, dtype=torch.int64),
    }
    mask = torch.ones(pairs, steps, dtype=torch.bool) if mask is None else mask
    return LossInputs(ImageFeatures(image), AudioFeatures(audio, mask), **defaults | changes)


def _value(mean):
    """The mean over this process alone."""
    return regularizers.safe_divide(*mean)


def _inputs_with_volume(volume, mask=None, **changes):
    """Inputs whose paired volume [B K H W T] is given: one channel for each cell."""
    pairs, heads, rows, columns, _ = volume.shape
    cells = torch.eye(rows * columns, dtype=volume.dtype).view(-1, rows, columns)
    inputs = _inputs(volume.flatten(2, 3), cells.expand(pairs, heads, -1, -1, -1), mask, **changes)
    assert mask is not None or torch.equal(inputs.volume, volume)
    return inputs


def test_nonneg_pressure_agrees_with_a_slow_loop():
    audio, image = torch.randn(1, K, C, 7, dtype=torch.float64), torch.randn(1, K, C, 3, 3, dtype=torch.float64)
    steps, cells = audio[0].permute(2, 0, 1), image[0].flatten(2).permute(2, 0, 1)
    expected = sum(
        min(0.0, (steps[n, k] * cells[m, k]).sum().item()) ** 2
        for n, m, k in itertools.product(range(7), range(9), range(K))
    )
    assert _value(regularizers.nonneg_pressure(_inputs(audio, image))).item() == pytest.approx(expected / (7 * 9 * K))


def test_silence_compares_masked_out_steps_with_every_cell_of_every_image():
    audio, image = torch.randn(B, K, C, T, dtype=torch.float64), torch.randn(B, K, C, H, W, dtype=torch.float64)
    mask = torch.ones(B, T, dtype=torch.bool)
    silent = [(0, 1), (0, 5), (2, 3)]
    for b, t in silent:
        mask[b, t] = False
    expected = [
        abs((audio[b, k, :, t] * image[v, k, :, h, w]).sum().item())
        for (b, t), v, k, h, w in itertools.product(silent, *map(range, (B, K, H, W)))
    ]
    inputs = _inputs(audio, image, mask, num_sampled_positions=3)
    assert _value(regularizers.silence(inputs)).item() == pytest.approx(sum(expected) / len(expected))
    assert _value(regularizers.silence(_inputs(audio, image))) == 0


def test_terms_of_the_paired_volume_worked_out_by_hand():
    # One pair, two heads, two cells, two steps.
    volume = torch.tensor([[[1.0, 2.0], [0.0, -1.0]], [[3.0, 0.0], [2.0, 2.0]]]).view(1, 2, 1, 2, 2)
    inputs = _inputs_with_volume(volume)
    assert _value(regularizers.tv(inputs)).item() == pytest.approx((1 + 1 + 9 + 0) / 4)
    assert _value(regularizers.head_specialization(inputs)).item() == pytest.approx((3 + 0 + 0 + 2) / 4)
    # Half of step 1 is spliced: its four squares are 4, 1, 0, 4.
    spliced = _inputs_with_volume(volume, audio_positive_weight=torch.tensor([[1.0, 0.5]]))
    assert _value(regularizers.negative_audio(spliced)).item() == pytest.approx(9 / 4)
    # A masked-out step does not count, spliced or not.
    half_valid = _inputs_with_volume(volume, torch.tensor([[True, False]]), audio_positive_weight=torch.zeros(1, 2))
    assert _value(regularizers.negative_audio(half_valid)).item() == pytest.approx((1 + 0 + 9 + 4) / 4)
    # Cell 0 shows another image (m = 1), cell 1 half of one (m^2 = 1/4): squares 1 + 4 + 9 + 0 and 0 + 1 + 4 + 4.
    mixed = _inputs_with_volume(volume, image_weight=torch.tensor([[[0.0, 0.5]]]))
    assert _value(regularizers.image_mixup(mixed)).item() == pytest.approx((14 + 9 / 4) / (4 * 1 + 4 * 0.5))
    # Head 0 belongs to source 0, so a pair of source 0 penalizes head 1, and the other way round.
    first, second = (_inputs_with_volume(volume, source=torch.tensor([source])) for source in (0, 1))
    assert _value(regularizers.disentangle(first)).item() == pytest.approx((9 + 0 + 4 + 4) / 4)
    assert _value(regularizers.disentangle(second)).item() == pytest.approx((1 + 4 + 0 + 1) / 4)


def test_empty_means_are_zero_and_not_nan():
    volume = torch.randn(2, 1, 2, 2, 3)
    inputs = _inputs_with_volume(volume)
    assert _value(regularizers.negative_audio(inputs)) == 0
    assert _value(regularizers.image_mixup(inputs)) == 0
    assert _value(regularizers.tv(_inputs_with_volume(volume[..., :1]))) == 0


def test_head_specialization_does_not_apply_to_one_head():
    assert regularizers.head_specialization(_inputs_with_volume(torch.randn(2, 1, 2, 2, 3))) is None


def test_the_logit_scale_floor_penalizes_scales_below_one_only():
    inputs = _inputs_with_volume(torch.zeros(1, 1, 1, 1, 1))
    above, below = (dataclasses.replace(inputs, logit_scale=LogitScale(torch.tensor(w))) for w in (0.3, -0.7))
    assert _value(regularizers.logit_scale_floor(above)) == 0
    assert _value(regularizers.logit_scale_floor(below)).item() == pytest.approx(0.49)


def test_four_heads_are_compared_in_six_pairs_and_split_into_halves():
    inputs = _inputs_with_volume(torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1, 1))
    assert _value(regularizers.head_specialization(inputs)).item() == pytest.approx((2 + 3 + 4 + 6 + 8 + 12) / 6)
    assert _value(regularizers.disentangle(inputs)).item() == pytest.approx((3 + 4) ** 2)


def test_means_over_parts_of_a_batch_combine_by_summing_numerators_and_denominators():
    volume, weight = torch.randn(B, K, H, W, T), torch.rand(B, H, W)
    whole = regularizers.image_mixup(_inputs_with_volume(volume, image_weight=weight))
    parts = [
        regularizers.image_mixup(_inputs_with_volume(volume[part], image_weight=weight[part]))
        for part in (slice(0, 1), slice(1, None))
    ]
    numerator, denominator = (sum(values) for values in zip(*parts, strict=True))
    assert torch.allclose(regularizers.safe_divide(numerator, denominator), _value(whole))
