"""Published FeatUp models by torch.hub: right encoder, right variant, and one line for what does not fit."""

import re

import pytest
import timm
import torch
from paths import ROOT
from published_featup import checkpoint, write
from torch.nn import functional

from model.published_upsamplers import FEATUP, featup_url
from model.upsamplers.backbones import build_backbone
from model.upsamplers.featup import load_featup

VARIANTS = [
    (name, use_norm) for name, backbone in FEATUP.items() for use_norm in (True, False)[not backbone.has_norm :]
]


@pytest.fixture
def checkpoints(tmp_path):
    """The folder of downloads of torch.hub."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    yield tmp_path / "checkpoints"
    torch.hub.set_dir(before)


def file_of(folder, name, use_norm):
    return folder / ("" if use_norm else "no_norm") / f"{name}_jbu_stack_cocostuff.ckpt"


@pytest.mark.parametrize(("name", "use_norm"), VARIANTS)
def test_torch_hub_gives_features_on_16_times_the_grid(checkpoints, name, use_norm):
    write(file_of(checkpoints, name, use_norm), name, use_norm)
    model = torch.hub.load(str(ROOT), name, source="local", use_norm=use_norm, backbone_weights="random")
    stride, channels = FEATUP[name].stride, FEATUP[name].channels
    image = torch.randn(1, 3, 2 * stride, 3 * stride)
    with torch.inference_mode():
        low, high = model.model(image), model(image)
        assert low.shape == (1, channels, 2, 3) and high.shape == (1, channels, 32, 48) and high.isfinite().all()
        assert torch.allclose(model.upsampler(low, image), high)
    assert not model.training
    stored = checkpoint(name, use_norm, backbone=False)["state_dict"]
    ours = model.state_dict()
    for key in stored:
        if key.startswith(("upsampler.", "model.1.")):
            assert torch.equal(ours[key], stored[key]), key
    assert use_norm == ("model.1.norm.weight" in ours)


def test_the_address_of_each_variant_ends_in_the_published_file_name():
    assert featup_url("clip", True).endswith("/pretrained/clip_jbu_stack_cocostuff.ckpt")
    assert featup_url("clip", False).endswith("/pretrained/no_norm/clip_jbu_stack_cocostuff.ckpt")


@pytest.mark.parametrize("name", ["dino16", "dinov2", "clip", "resnet50"])
def test_low_resolution_features_are_those_of_timm(name):
    encoder = build_backbone(FEATUP[name], "random").eval()
    stride = FEATUP[name].stride
    image = torch.randn(1, 3, 2 * stride, 3 * stride)
    with torch.inference_mode():
        found = encoder(image)
        if name == "resnet50":
            expected = encoder.resnet.forward_features(image)
        else:
            tokens = encoder.vit.head(encoder.vit.forward_features(image))[:, 1:]
            expected = tokens.transpose(1, 2).reshape(1, -1, 2, 3)
        pooled = (
            timm.create_model(FEATUP[name].timm_name, num_classes=0 if name != "clip" else 512, dynamic_img_size=True)
            if name != "resnet50"
            else timm.create_model(FEATUP[name].timm_name, num_classes=0)
        )
        module = encoder.resnet if name == "resnet50" else encoder.vit
        assert {k: v.shape for k, v in pooled.state_dict().items() if k != "pos_embed"} == {
            k: v.shape for k, v in module.state_dict().items() if k != "pos_embed"
        }
    assert torch.allclose(found, expected, atol=1e-5)


def test_maskclip_replaces_the_last_attention_by_its_values():
    vit = build_backbone(FEATUP["maskclip"], "random").eval()
    image = torch.randn(1, 3, 32, 48)
    seen = {}
    hook = vit.vit.blocks[-2].register_forward_hook(lambda _, __, out: seen.update(tokens=out))
    with torch.inference_mode():
        found = vit(image)
        last, width = vit.vit.blocks[-1], 768
        normed = functional.layer_norm(seen["tokens"], (width,), last.norm1.weight, last.norm1.bias, last.norm1.eps)
        value = normed @ last.attn.qkv.weight[2 * width :].T + last.attn.qkv.bias[2 * width :]
        expected = vit.vit.head(vit.vit.norm(last.attn.proj(value)))[:, 1:]
    hook.remove()
    assert torch.allclose(found.flatten(2).transpose(1, 2), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: load_featup("dino8"),
            "FeatUp model 'dino8': allowed is dino16, vit, dinov2, clip, maskclip, resnet50",
        ),
        (lambda: load_featup("maskclip"), "maskclip is published without normalization only"),
        (lambda: load_featup("dino16", backbone_weights="random")(torch.randn(1, 3, 40, 32)), "multiples of 16 px"),
        (lambda: load_featup("dino16", backbone_weights="nowhere.pth"), "backbone_weights=nowhere.pth: no such file"),
        (
            lambda: load_featup("resnet50", pretrained=False, backbone_weights="nowhere.pth"),
            "backbone_weights=nowhere.pth: no such file",
        ),
    ],
)
def test_mistakes_are_explained_in_one_line(checkpoints, call, text):
    write(file_of(checkpoints, "dino16", True), "dino16", True)
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_file_of_another_encoder_or_variant_or_without_weights_is_refused(checkpoints):
    file = file_of(checkpoints, "dino16", True)
    write(file, "clip", True)
    with pytest.raises(ValueError, match="weights of an encoder with 512 channels, this one has 384"):
        load_featup("dino16", backbone_weights="random")
    write(file, "dino16", False)
    with pytest.raises(ValueError, match="weights of the variant without normalization: use_norm=True"):
        load_featup("dino16", backbone_weights="random")
    torch.save({"state_dict": {}}, file)
    with pytest.raises(ValueError, match=r"dino16_jbu_stack_cocostuff.ckpt: no upsampler.fixup_proj.1.weight"):
        load_featup("dino16", backbone_weights="random")
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"dino16_jbu_stack_cocostuff.ckpt cannot be read without running code in it"):
        load_featup("dino16", backbone_weights="random")
