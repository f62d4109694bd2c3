"""The log-mel encoder: values of the spectrogram, lengths of the input, sources of weights, gradients."""

import json

import numpy as np
import pytest
import timm
import torch
from paths import GOLDEN
from safetensors import safe_open
from timm.models import save_for_hf
from torchaudio.compliance import kaldi

from configs.schema import ModelConfig
from model.build import build_denseav
from model.encoders.log_mel_vit import MEAN, STD, KaldiFbank, MelEncoder
from model.inputs import InputSpec
from pipelines.modalities.log_mel import log_mel

VIT = "vit_tiny_patch16_224"
INPUTS = InputSpec(image_size_px=32, clip_duration_s=1.0, sample_rate_hz=16_000)


def _waveforms(samples):
    """Loud, quiet, half silent, and silent."""
    waveform = torch.randn(4, samples) * torch.tensor([0.3, 1e-4, 0.1, 0.0])[:, None]
    waveform[2, samples // 2 :] = 0
    return waveform


@pytest.mark.parametrize("case", ["mel_00", "mel_01"])
def test_the_spectrogram_equals_the_reference(case):
    with safe_open(GOLDEN / f"{case}.safetensors", "pt") as stored:
        params = json.loads(stored.metadata()["case"])["params"]
        waveform, expected = stored.get_tensor("in.waveform"), stored.get_tensor("out.spectrogram")
    waveform = torch.nn.functional.pad(waveform, (0, params["target_samples"] - len(waveform)))
    spectrogram = (KaldiFbank(16_000)(waveform[None], 1024) - params["mean"]) / params["std"]
    assert (spectrogram - expected).abs().max() < 2e-4


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050])
def test_batched_spectrograms_equal_torchaudio_and_the_build_pipeline(rate_hz):
    waveforms = _waveforms(rate_hz)
    spectrograms = KaldiFbank(rate_hz)(waveforms, 98)
    for waveform, ours in zip(waveforms, spectrograms, strict=True):
        theirs = kaldi.fbank(
            (waveform - waveform.mean())[None],
            num_mel_bins=128,
            window_type="hanning",
            htk_compat=True,
            sample_frequency=rate_hz,
        )
        assert torch.allclose(ours, theirs, atol=1e-5)
        assert np.abs(ours.numpy() - log_mel(waveform.numpy(), rate_hz)).max() / STD < 2e-3


def test_autocast_does_not_change_the_spectrogram():
    waveforms, encoder = _waveforms(4_000), KaldiFbank(16_000)
    with torch.autocast("cpu", torch.bfloat16):
        assert (
            torch.equal(encoder(waveforms, 22), KaldiFbank(16_000)(waveforms, 22))
            and encoder(waveforms, 22).dtype == torch.float32
        )
        inside = encoder(waveforms, 22)
    assert torch.equal(inside, encoder(waveforms, 22))


@pytest.mark.parametrize(
    ("samples", "steps"),
    [
        (164_200, 64),  # exactly 1,024 frames
        (38_400, 15),  # 240 frames, the last 2 of them padding
        (39_700, 16),
        (100, 1),  # shorter than a window
        (1, 1),
    ],
)
def test_any_length_gives_whole_patches(samples, steps):
    encoder = MelEncoder(VIT, 164_200, weights="random").eval()
    with torch.no_grad():
        dense, cls = encoder(0.1 * torch.randn(2, samples))
    assert dense.shape == (2, 192, steps) and cls.shape == (2, 192)
    assert dense.isfinite().all() and cls.isfinite().all()


def test_position_embeddings_have_the_length_of_the_clip():
    assert MelEncoder(VIT, 164_200, weights="random").model.pos_embed.shape == (1, 1 + 64 * 8, 192)
    assert MelEncoder(VIT, 38_400, weights="random").model.pos_embed.shape == (1, 1 + 15 * 8, 192)


def test_a_changed_stretch_of_audio_changes_its_own_step_most():
    encoder = MelEncoder(VIT, 40_960, weights="random").eval()
    waveform = 0.1 * torch.randn(1, 40_960)
    changed = waveform.clone()
    changed[:, 11 * 2_560 : 12 * 2_560] *= 5
    with torch.no_grad():
        difference = (encoder(changed)[0] - encoder(waveform)[0]).abs().sum(dim=1)[0]
    assert difference.argmax() == 11 and difference.shape == (16,)


def test_a_step_is_the_mean_of_its_column_of_patches():
    encoder = MelEncoder(VIT, 16_000, weights="random").eval()
    waveform = 0.1 * torch.randn(1, 16_000)
    spectrogram = (encoder.log_mel(waveform, 96) - MEAN) / STD
    with torch.no_grad():
        tokens = encoder.model.forward_features(spectrogram[:, None])
        dense, cls = encoder(waveform)
    assert torch.allclose(dense[0, :, 2], tokens[0, 1 + 2 * 8 : 1 + 3 * 8].mean(dim=0), atol=1e-6)
    assert torch.equal(cls, tokens[:, 0])


@pytest.mark.parametrize("projection", ["conv_attention", "linear"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_parameter_gets_a_gradient_through_either_projection(projection, checkpointing):
    config = ModelConfig(
        audio_encoder=f"mel:{VIT}",
        audio_weights="random",
        audio_projection=projection,
        embed_dim=12,
        norm_eps=1e-4,
        gradient_checkpointing=checkpointing,
    )
    model = build_denseav(config, InputSpec(32, 2.0, 16_000)).train()
    assert "audio_projection.cls_token" not in model.state_dict()
    audio = model.encode_audio(0.1 * torch.randn(2, 32_000), torch.ones(2, 32_000, dtype=torch.bool))
    assert audio.dense.shape == (2, 1, 12, 12 if projection == "linear" else 1) and (audio.cls is None) == (
        projection == "linear"
    )
    (audio.dense * torch.randn_like(audio.dense)).sum().backward()
    parts = [*model.audio_encoder.named_parameters(), *model.audio_projection.named_parameters()]
    assert [name for name, p in parts if p.grad is None or not p.grad.any()] == []
    assert all(module.eps == 1e-4 for module in model.modules() if isinstance(module, torch.nn.LayerNorm))


def test_weights_for_colors_are_summed_and_position_embeddings_resampled(tmp_path):
    stored = timm.create_model(VIT)
    torch.save(stored.state_dict(), tmp_path / "rgb.pth")
    model = MelEncoder(VIT, 164_200, weights=str(tmp_path / "rgb.pth")).model
    assert torch.allclose(
        model.patch_embed.proj.weight, stored.patch_embed.proj.weight.sum(dim=1, keepdim=True), atol=1e-6
    )
    assert torch.equal(model.pos_embed[:, 0], stored.pos_embed[:, 0]) and model.pos_embed.shape == (1, 513, 192)
    assert torch.equal(model.blocks[0].attn.qkv.weight, stored.blocks[0].attn.qkv.weight)


def test_a_log_mel_transformer_in_the_layout_of_the_hub_is_loaded_unchanged(tmp_path):
    # AudioMAE's, whose norm comes after pooling.
    arguments = {"img_size": (1024, 128), "in_chans": 1, "num_classes": 0, "global_pool": "avg"}
    stored = timm.create_model(VIT, **arguments)
    torch.nn.init.normal_(stored.fc_norm.bias)
    save_for_hf(stored, tmp_path, model_args=arguments)
    encoder = MelEncoder(f"local-dir:{tmp_path}", 164_200)
    for name, tensor in stored.state_dict().items():
        assert torch.equal(encoder.model.state_dict()[name.replace("fc_norm", "norm")], tensor), name
    encoder(torch.randn(1, 16_000))[0].square().sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("vit_gigantic", "random", "model.audio_encoder=mel:vit_gigantic: timm has no such model; similar names are"),
        ("resnet18", "random", "model.audio_encoder=mel:resnet18 is not a vision transformer"),
        (
            "vit_small_patch14_dinov2.lvd142m",
            "random",
            "model.audio_encoder=mel:vit_small_patch14_dinov2.lvd142m has patches of 14 px",
        ),
        (
            "vit_base_patch16_siglip_224",
            "random",
            "model.audio_encoder=mel:vit_base_patch16_siglip_224 has no class token",
        ),
        (VIT, "/none.pth", "model.audio_weights=/none.pth: no such file"),
        (
            "local-dir:/none",
            "pretrained",
            "model.audio_encoder=mel:local-dir:/none: its pre-trained weights are not in timm's cache",
        ),
        ("", "random", "model.audio_encoder=mel:: timm has no such model"),
    ],
)
def test_encoders_that_cannot_be_built_are_refused_in_one_line(name, weights, message):
    with pytest.raises(ValueError) as error:
        build_denseav(ModelConfig(audio_encoder=f"mel:{name}", audio_weights=weights), INPUTS)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
