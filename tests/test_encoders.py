"""Full-size encoders with random weights: shapes, normalisation, adapters, checkpointing, and what is said when weights are not there."""

import pytest
import torch

from configs.command import UsageError
from configs.schema import ModelConfig
from model.build import build_denseav
from model.encoders.audio import SpeechTransformerEncoder
from model.encoders.image import IMAGENET_MEAN, IMAGENET_STD, TimmImageEncoder
from model.encoders.lora import LoraSettings
from model.grounding.denseav import InputSpec

VIT = "vit_tiny_patch16_224"


@pytest.mark.parametrize(
    ("name", "size_px", "grid"),
    [
        (VIT, 64, 4),
        ("vit_small_patch8_224.dino", 32, 4),
        ("vit_small_patch14_dinov2.lvd142m", 56, 4),
        ("vit_small_patch16_dinov3.lvd1689m", 64, 4),
        ("vit_base_patch16_clip_224.openai", 48, 3),
    ],
)
def test_any_vision_transformer_gives_a_cell_for_each_patch_and_a_class_token(name, size_px, grid):
    encoder = TimmImageEncoder(name, size_px, "random").eval()
    with torch.no_grad():
        dense, cls = encoder(torch.randn(2, 3, size_px, size_px))
    assert dense.shape == (2, encoder.channels, grid, grid) and cls.shape == (2, encoder.channels)
    assert encoder.patch_size_px * grid == size_px


def test_cells_lie_where_their_patches_do():
    encoder = TimmImageEncoder(VIT, 64, "random").eval()
    frames = torch.zeros(1, 3, 64, 64)
    changed = frames.clone()
    changed[..., 16:32, 48:64] = 1.0  # row 1, column 3
    with torch.no_grad():
        difference = (encoder(changed)[0] - encoder(frames)[0]).abs().sum(dim=1)[0]
    assert divmod(int(difference.argmax()), 4) == (1, 3)


def test_an_encoder_with_another_normalisation_gets_its_own():
    clip = TimmImageEncoder("vit_base_patch16_clip_224.openai", 32, "random")
    raw = torch.rand(1, 3, 32, 32)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    own_mean, own_std = (torch.tensor(clip.model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    assert torch.allclose((raw - mean) / std * clip._factor + clip._shift, (raw - own_mean) / own_std, atol=1e-5)
    assert not torch.allclose(own_std, std)


def test_adapters_learn_beside_frozen_weights_from_the_second_step_on_and_begin_as_nothing():
    torch.manual_seed(0)
    frames = torch.randn(2, 3, 32, 32)
    plain = TimmImageEncoder(VIT, 32, "random").eval()
    adapted = TimmImageEncoder(VIT, 32, "random", LoraSettings(rank=4, dropout=0.0)).eval()
    state = {name.replace("qkv.", "qkv.base_layer."): value for name, value in plain.model.state_dict().items()}
    assert all("lora" in name for name in adapted.model.load_state_dict(state, strict=False).missing_keys)
    assert torch.allclose(plain(frames)[0], adapted(frames)[0], atol=1e-6)
    learning = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert len(learning) == 24 and all("lora_" in name for name in learning)
    optimizer = torch.optim.SGD(learning.values(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        adapted(frames)[0].square().mean().backward()
        assert all((p.grad.abs().sum() > 0) == (step > 0 or "lora_B" in name) for name, p in learning.items())
        optimizer.step()


def test_computing_blocks_again_gives_the_same_gradients():
    frames = torch.randn(1, 3, 32, 32)
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        encoder = TimmImageEncoder(VIT, 32, "random", gradient_checkpointing=checkpointing)
        encoder(frames)[0].square().mean().backward()
        grads.append(encoder.model.blocks[0].attn.qkv.weight.grad)
    assert torch.allclose(*grads, atol=1e-6)


def test_a_speech_transformer_gives_fifty_steps_a_second_and_hears_no_loudness():
    torch.manual_seed(0)
    encoder = SpeechTransformerEncoder("hubert_base", weights="random", norm_eps=1e-4).eval()
    waveform = torch.randn(1, 16_400)
    with torch.no_grad():
        dense, cls = encoder(waveform)
        louder, _ = encoder(0.1 * waveform + 0.3)
    assert dense.shape == (1, 768, 51) and cls is None
    assert torch.allclose(dense, louder, atol=1e-3)
    assert encoder.model.encoder.transformer.layer_norm.eps == 1e-4
    assert encoder.model.feature_extractor.conv_layers[0].layer_norm.eps == 1e-5


def test_layers_computed_again_give_the_same_features_and_gradients():
    waveform = torch.randn(1, 4000)
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        encoder = SpeechTransformerEncoder("wav2vec2_base", weights="random", gradient_checkpointing=checkpointing).train()
        encoder.model.encoder.transformer.layer_drop = 0.0
        for module in encoder.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if hasattr(module, "dropout") and isinstance(module.dropout, float):
                module.dropout = 0.0
        dense, _ = encoder(waveform)
        dense.square().mean().backward()
        found.append((dense.detach(), encoder.model.encoder.transformer.layers[0].attention.k_proj.weight.grad))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"image_encoder": "vit_gigantic"}, "model.image_encoder=vit_gigantic: timm has no such model; near it are"),
        ({"image_encoder": "resnet18", "image_weights": "random"}, "model.image_encoder=resnet18 is no vision transformer"),
        ({"audio_encoder": "whisper"}, "model.audio_encoder=whisper: allowed are hubert_base"),
        ({"image_weights": "/none.pth", "image_encoder": VIT}, "model.image_weights=/none.pth: no such file"),
        ({"audio_weights": "/none.pth", "audio_encoder": "hubert_base"}, "model.audio_weights=/none.pth: no such file"),
    ],
)
def test_what_cannot_be_built_is_one_line(changes, told):
    with pytest.raises(UsageError) as error:
        build_denseav(ModelConfig(**changes), InputSpec(64, 1.0, 16_000))
    assert told in str(error.value) and "\n" not in str(error.value)


def test_weights_come_from_a_file_and_those_of_another_model_are_refused(tmp_path):
    torch.manual_seed(0)
    plain = TimmImageEncoder(VIT, 32, "random").eval()
    torch.save(plain.model.state_dict(), tmp_path / "right.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "wrong.pth")
    torch.save({"a": print}, tmp_path / "code.pth")
    again = TimmImageEncoder(VIT, 32, str(tmp_path / "right.pth")).eval()
    frames = torch.randn(1, 3, 32, 32)
    assert torch.equal(plain(frames)[0], again(frames)[0])
    for name, told in (("wrong", "has weights of another model"), ("code", "is no file of weights")):
        with pytest.raises(UsageError, match=told):
            TimmImageEncoder(VIT, 32, str(tmp_path / f"{name}.pth"))


def test_another_sample_rate_and_sides_that_are_no_whole_patches_are_refused():
    with pytest.raises(UsageError, match=r"stream.sample_rate_hz=22050: model.audio_encoder=hubert_base hears 16000 Hz"):
        SpeechTransformerEncoder("hubert_base", 22_050, "random")
    with pytest.raises(UsageError, match=r"stream.image_size_px=40 must be a multiple of 16"):
        TimmImageEncoder(VIT, 40, "random")
