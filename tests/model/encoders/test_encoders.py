"""Full-size encoders with random weights: shapes, adapters, checkpointing, attention kernels, weights."""

import os
import subprocess
import sys

import pytest
import torch
from paths import ROOT
from torch.utils._python_dispatch import TorchDispatchMode

from configs.schema import ModelConfig
from model.build import build_denseav
from model.encoders.image import TimmImageEncoder
from model.encoders.speech import SpeechTransformerEncoder
from model.inputs import InputSpec
from model.projection import AudioSelfAttentionPool

VIT = "vit_tiny_patch16_224"


def _frames(count, side_px):
    return torch.randint(0, 256, (count, 3, side_px, side_px), dtype=torch.uint8)


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
def test_any_vision_transformer_returns_a_cell_for_each_patch_and_a_class_token(name, size_px, grid):
    encoder = TimmImageEncoder(name, size_px, "random").eval()
    with torch.no_grad():
        dense, cls = encoder(_frames(2, size_px))
    assert dense.shape == (2, encoder.channels, grid, grid) and cls.shape == (2, encoder.channels)
    assert encoder.stride * grid == size_px


def test_a_changed_patch_changes_its_own_cell_most():
    encoder = TimmImageEncoder(VIT, 64, "random").eval()
    frames = torch.full((1, 3, 64, 64), 124, dtype=torch.uint8)
    changed = frames.clone()
    changed[..., 16:32, 48:64] = 182  # row 1, column 3
    with torch.no_grad():
        difference = (encoder(changed)[0] - encoder(frames)[0]).abs().sum(dim=1)[0]
    assert divmod(int(difference.argmax()), 4) == (1, 3)


def test_adapters_start_as_the_identity_and_learn_while_other_weights_are_frozen():
    torch.manual_seed(0)
    frames = _frames(2, 32)
    plain = TimmImageEncoder(VIT, 32, "random").eval()
    adapted = TimmImageEncoder(VIT, 32, "random", lora_rank=4, lora_dropout=0.0).eval()
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


@pytest.mark.parametrize("name", [VIT, "eva02_tiny_patch14_224", "vit_pe_core_tiny_patch16_384"])
def test_every_parameter_of_a_vision_transformer_gets_a_gradient(name):
    size_px = 56 if "patch14" in name else 64
    encoder = TimmImageEncoder(name, size_px, "random")
    dense, _ = encoder(_frames(2, size_px))
    assert torch.allclose(dense.mean(dim=1), torch.zeros(()), atol=1e-5)  # the norm is the last layer
    (dense * torch.randn_like(dense)).sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_gradient_checkpointing_of_a_vision_transformer_gives_the_same_gradients():
    frames = _frames(1, 32)
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        encoder = TimmImageEncoder(VIT, 32, "random", gradient_checkpointing=checkpointing)
        encoder(frames)[0].square().mean().backward()
        grads.append(encoder.model.blocks[0].attn.qkv.weight.grad)
    assert torch.allclose(*grads, atol=1e-6)


def test_a_speech_transformer_returns_50_steps_a_second_and_ignores_loudness():
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


def test_gradient_checkpointing_of_a_speech_transformer_gives_the_same_features_and_gradients():
    waveform = torch.randn(1, 4000)
    outcomes = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        encoder = SpeechTransformerEncoder(
            "wav2vec2_base", weights="random", gradient_checkpointing=checkpointing
        ).train()
        for module in encoder.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if hasattr(module, "dropout") and isinstance(module.dropout, float):
                module.dropout = 0.0
        dense, _ = encoder(waveform)
        dense.square().mean().backward()
        outcomes.append((dense.detach(), encoder.model.encoder.transformer.layers[0].attention.k_proj.weight.grad))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*outcomes, strict=True))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["hubert_base", "wavlm_base"])
def test_training_skips_no_layer(name, checkpointing):
    encoder = SpeechTransformerEncoder(name, weights="random", gradient_checkpointing=checkpointing).train()
    called = []
    for layer in encoder.model.encoder.transformer.layers:
        layer.register_forward_hook(lambda *_: called.append(1))
    with torch.no_grad():
        for _ in range(10):  # with torchaudio's layer drop of 5 %, 2 of 1,000 such tests would pass
            encoder(torch.randn(1, 800))
    assert len(called) == 10 * 12


class _AttentionKernels(TorchDispatchMode):
    """Counts fused attention, and softmax, which unfused attention needs."""

    def __init__(self):
        super().__init__()
        self.fused = self.softmax = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.fused += "_scaled_dot_product" in str(func) and "backward" not in str(func)
        self.softmax += "softmax" in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("build", "inputs", "blocks"),
    [
        (lambda: TimmImageEncoder(VIT, 32, "random", lora_rank=8), _frames(1, 32), 12),
        (lambda: SpeechTransformerEncoder("hubert_base", weights="random"), torch.randn(1, 2000), 12),
        (lambda: AudioSelfAttentionPool(8, 12), torch.randn(2, 8, 20), 1),
    ],
    ids=["image", "speech", "projection"],
)
def test_attention_is_fused_in_training_and_in_evaluation(build, inputs, blocks):
    module = build()
    for layer in module.modules():
        if type(layer).__name__ == "SelfAttention":
            layer.dropout = 0.0  # as in the large models; on CPUs fused attention supports no dropout
    for training in (True, False):
        module.train(training)
        with _AttentionKernels() as kernels:
            module(inputs)[0].sum().backward()
        assert (kernels.fused, kernels.softmax) == (blocks, 0), f"{training=}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"image_encoder": "vit_gigantic"},
            "model.image_encoder=vit_gigantic: timm has no such model; similar names are",
        ),
        (
            {"image_encoder": "resnet18", "image_weights": "random"},
            "model.image_encoder=resnet18 is not a vision transformer",
        ),
        (
            {"audio_encoder": "whisper"},
            "model.audio_encoder=whisper: allowed are tiny, mel:NAME of a timm model, hubert_base",
        ),
        ({"image_weights": "/none.pth", "image_encoder": VIT}, "model.image_weights=/none.pth: no such file"),
        ({"audio_weights": "/none.pth", "audio_encoder": "hubert_base"}, "model.audio_weights=/none.pth: no such file"),
        (
            {"audio_encoder": "hubert_large_ls960", "audio_conv_bias": True},
            "model.audio_conv_bias=true: the convolutions of torchaudio's pre-trained hubert",
        ),
        (
            {"image_encoder": "local-dir:/none", "image_weights": "random"},
            "model.image_encoder=local-dir:/none: it is not in timm's cache",
        ),
    ],
)
def test_encoders_that_cannot_be_built_are_refused_in_one_line(changes, message):
    with pytest.raises(ValueError) as error:
        build_denseav(ModelConfig(**changes), InputSpec(64, 1.0, 16_000))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.slow
def test_pre_trained_weights_are_read_from_the_caches_of_the_libraries_offline(tmp_path):
    """In a separate process, because the client of the hub reads its settings once."""
    import timm
    import torchaudio
    from safetensors.torch import save_file

    vit, hubert = timm.create_model(VIT), torchaudio.models.hubert_base()
    hub = tmp_path / "huggingface/hub/models--timm--vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    for folder in (hub / "refs", hub / "snapshots/abc", tmp_path / "torch/hub/checkpoints"):
        folder.mkdir(parents=True)
    (hub / "refs/main").write_text("abc")
    save_file(vit.state_dict(), hub / "snapshots/abc/model.safetensors")
    torch.save(hubert.state_dict(), tmp_path / "torch/hub/checkpoints/hubert_fairseq_base_ls960.pth")
    program = f"""
import torch
from model.encoders.speech import SpeechTransformerEncoder
from model.inputs import InputSpec
from model.encoders.image import TimmImageEncoder
from model.encoders.log_mel_vit import MelEncoder
print(TimmImageEncoder("{VIT}", 224).model.blocks[2].attn.qkv.weight.sum().item())
print(MelEncoder("{VIT}", 16000).model.blocks[0].mlp.fc1.weight.sum().item())
print(SpeechTransformerEncoder("hubert_base").model.encoder.transformer.layers[3].attention.k_proj.weight.sum().item())
"""
    environment = os.environ | {
        "HF_HOME": str(tmp_path / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "TORCH_HOME": str(tmp_path / "torch"),
    }
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=250, env=environment
    )
    assert done.returncode == 0, done.stderr
    expected = (
        vit.blocks[2].attn.qkv.weight,
        vit.blocks[0].mlp.fc1.weight,
        hubert.encoder.transformer.layers[3].attention.k_proj.weight,
    )
    assert [float(number) for number in done.stdout.split()] == pytest.approx(
        [weight.sum().item() for weight in expected], rel=1e-4, abs=1e-3
    )


def test_weights_are_read_from_a_file_and_refused_if_they_are_of_another_model(tmp_path):
    torch.manual_seed(0)
    plain = TimmImageEncoder(VIT, 32, "random").eval()
    torch.save(plain.model.state_dict(), tmp_path / "right.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "wrong.pth")
    torch.save({"a": print}, tmp_path / "code.pth")
    torch.save({"model": [torch.zeros(1)]}, tmp_path / "list.pth")
    again = TimmImageEncoder(VIT, 32, str(tmp_path / "right.pth")).eval()
    frames = _frames(1, 32)
    assert torch.equal(plain(frames)[0], again(frames)[0])
    for name, message in (
        ("wrong", "has weights of another model"),
        ("code", "is not a checkpoint"),
        ("list", "is not a checkpoint: it contains no state dict"),
    ):
        with pytest.raises(ValueError, match=message):
            TimmImageEncoder(VIT, 32, str(tmp_path / f"{name}.pth"))
        with pytest.raises(ValueError, match=message):
            SpeechTransformerEncoder("hubert_base", weights=str(tmp_path / f"{name}.pth"))


def test_weights_in_a_file_may_have_another_image_size_and_a_classifier(tmp_path):
    import timm

    stored = timm.create_model(VIT, img_size=64)
    torch.save({"state_dict": stored.state_dict()}, tmp_path / "a.pth")
    same, larger = (TimmImageEncoder(VIT, size_px, str(tmp_path / "a.pth")).model for size_px in (64, 96))
    assert torch.equal(same.pos_embed, stored.pos_embed) and torch.equal(
        same.blocks[11].mlp.fc2.weight, stored.blocks[11].mlp.fc2.weight
    )
    assert larger.pos_embed.shape == (1, 1 + 36, 192)
    assert torch.equal(larger.norm.bias, stored.norm.bias) and "state_dict" not in larger.pretrained_cfg


def test_unsupported_sample_rates_and_image_sizes_are_refused():
    with pytest.raises(
        ValueError, match=r"stream.sample_rate_hz=22050: model.audio_encoder=hubert_base expects 16000 Hz"
    ):
        SpeechTransformerEncoder("hubert_base", 22_050, "random")
    with pytest.raises(ValueError, match=r"stream.image_size_px=40 must be a multiple of 16"):
        TimmImageEncoder(VIT, 40, "random")
