"""The projections of image and audio features."""

import pytest
import torch
from torch.nn import functional

from configs.schema import ModelConfig
from model.build import build_denseav
from model.inputs import InputSpec
from model.projection import AudioLinear, AudioSelfAttentionPool, ImageLinear


def test_512_steps_give_the_published_56():
    dense, cls = AudioSelfAttentionPool(16, 12)(torch.randn(2, 16, 512))
    assert dense.shape == (2, 12, 56)
    assert cls.shape == (2, 12)


def test_the_image_is_normalized_over_channels_and_the_class_token_is_not():
    projection = ImageLinear(8, 4)
    dense, cls = torch.randn(2, 8, 3, 5), torch.randn(2, 8)
    scaled, scaled_cls = projection(100 * dense, 100 * cls)
    plain, plain_cls = projection(dense, cls)
    assert torch.allclose(scaled, plain, atol=1e-2)
    bias = projection.cls_proj.bias
    assert torch.allclose(scaled_cls - bias, 100 * (plain_cls - bias), rtol=1e-4, atol=1e-4)


def test_one_cell_of_the_image_projection_worked_out_by_hand():
    projection = ImageLinear(2, 1)
    with torch.no_grad():
        projection.patch_proj.weight.copy_(torch.tensor([2.0, 5.0]).view(1, 2, 1, 1))
        projection.patch_proj.bias.fill_(0.5)
    # Mean 2, variance 1, so the norm gives -1 and 1 but for the eps of 1e-4.
    dense, cls = projection(torch.tensor([1.0, 3.0]).view(1, 2, 1, 1), None)
    assert dense.item() == pytest.approx(0.5 + 3 / (1 + 1e-4) ** 0.5)
    assert cls is None


def test_every_parameter_gets_a_gradient_except_the_map_of_unused_class_tokens():
    for projection, dense in (
        (ImageLinear(8, 6), torch.randn(2, 8, 3, 3)),
        (AudioSelfAttentionPool(8, 12), torch.randn(2, 8, 20)),
        (AudioLinear(8, 6), torch.randn(2, 8, 4)),
    ):
        out, _ = projection(dense, None)
        (out * torch.randn_like(out)).sum().backward()
        for name, parameter in projection.named_parameters():
            if name.startswith("cls_proj") and isinstance(projection, ImageLinear):
                assert not parameter.requires_grad
            else:
                assert parameter.grad.abs().max() > 0, name


def test_the_map_of_class_tokens_gets_a_gradient_where_scores_use_them():
    projection = ImageLinear(8, 6, use_cls=True)
    projection(torch.randn(2, 8, 3, 3), torch.randn(2, 8))[1].square().sum().backward()
    assert projection.cls_proj.weight.grad.abs().max() > 0


def test_the_learned_class_token_replaces_a_missing_one():
    projection = AudioSelfAttentionPool(8, 12)
    dense = torch.randn(3, 8, 20)
    for ours, given in zip(projection(dense), projection(dense, projection.cls_token.expand(3, -1)), strict=True):
        assert torch.equal(ours, given)
    assert not torch.allclose(projection(dense)[0], projection(dense, torch.randn(3, 8))[0], atol=1e-4)


def test_the_block_normalizes_before_attention_and_before_the_mlp():
    projection = AudioSelfAttentionPool(8, 12)
    block, x = projection.block, torch.randn(2, 5, 12)
    norm = functional.layer_norm(x, (12,), block.norm1.weight, block.norm1.bias, 1e-4)
    q, k, v = (
        (norm @ block.self_attn.in_proj_weight.T + block.self_attn.in_proj_bias)
        .view(2, 5, 3, 6, 2)
        .permute(2, 0, 3, 1, 4)
    )
    attended = ((q @ k.transpose(-1, -2)) / 2**0.5).softmax(dim=-1) @ v
    x1 = x + block.self_attn.out_proj(attended.transpose(1, 2).flatten(2))
    norm = functional.layer_norm(x1, (12,), block.norm2.weight, block.norm2.bias, 1e-4)
    assert torch.allclose(block(x), x1 + block.linear2(functional.gelu(block.linear1(norm))), atol=1e-5)


@pytest.mark.parametrize("projection", [ImageLinear, AudioLinear])
def test_a_gain_scales_the_output_of_a_new_linear_projection(projection):
    dense = torch.randn(2, 6, 3, 3) if projection is ImageLinear else torch.randn(2, 6, 3)
    outputs = []
    for gain in (1.0, 0.25):
        torch.manual_seed(0)
        outputs.append(projection(6, 4, gain=gain)(dense, None)[0])
    torch.testing.assert_close(outputs[1], outputs[0] / 4)


def test_a_gain_is_refused_for_conv_attention():
    with pytest.raises(ValueError, match=r"model\.projection_init_gain=0\.5 is for model\.audio_projection=linear"):
        build_denseav(ModelConfig(projection_init_gain=0.5), InputSpec(32, 0.64, 16000))
