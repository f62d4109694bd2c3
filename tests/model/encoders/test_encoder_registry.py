"""Encoders by name, and settings without effect."""

import pytest

from configs.schema import ModelConfig
from model.encoders.image import TimmImageEncoder
from model.encoders.log_mel_vit import MelEncoder
from model.encoders.registry import build_encoders
from model.encoders.tiny import TinyAudioEncoder, TinyImageEncoder
from model.inputs import InputSpec

INPUTS = InputSpec(image_size_px=32, clip_duration_s=1.0, sample_rate_hz=16_000)
VIT = "vit_tiny_patch16_224"


def test_a_name_is_a_key_or_a_model_of_a_family():
    image, audio = build_encoders(ModelConfig(image_encoder="tiny", audio_encoder="tiny"), INPUTS)
    assert type(image) is TinyImageEncoder and type(audio) is TinyAudioEncoder
    random = {"image_weights": "random", "audio_weights": "random"}
    image, audio = build_encoders(ModelConfig(image_encoder=VIT, audio_encoder=f"mel:{VIT}", **random), INPUTS)
    assert type(image) is TimmImageEncoder and type(audio) is MelEncoder
    image, _ = build_encoders(ModelConfig(image_encoder=f"timm:{VIT}", audio_encoder="tiny", **random), INPUTS)
    assert type(image) is TimmImageEncoder


def test_blocks_are_modules_of_the_encoder_with_parameters():
    random = {"image_weights": "random", "audio_weights": "random"}
    for names in (
        {"image_encoder": "tiny", "audio_encoder": "tiny"},
        {"image_encoder": VIT, "audio_encoder": f"mel:{VIT}"},
    ):
        for encoder in build_encoders(ModelConfig(**names, **random), INPUTS):
            modules = {id(module) for module in encoder.modules()}
            assert encoder.blocks and all(id(block) in modules and list(block.parameters()) for block in encoder.blocks)
            assert encoder.stride > 0 and encoder.channels > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"norm_eps": 1e-4},
            "model.norm_eps=0.0001 has no effect with model.image_encoder=tiny and model.audio_encoder=tiny",
        ),
        ({"lora_rank": 4}, "model.lora_rank=4 has no effect with"),
        ({"gradient_checkpointing": True}, "model.gradient_checkpointing=true has no effect with"),
        (
            {"audio_conv_bias": True, "image_encoder": VIT, "image_weights": "random"},
            f"model.audio_conv_bias=true has no effect with model.image_encoder={VIT} and model.audio_encoder=tiny",
        ),
        (
            {"audio_conv_bias": True, "audio_encoder": f"mel:{VIT}"},
            f"model.audio_conv_bias=true has no effect with model.image_encoder=tiny and model.audio_encoder=mel:{VIT}",
        ),
        (
            {"image_weights": "a.pth"},
            "model.image_weights=a.pth: model.image_encoder=tiny starts from random weights; "
            "init_checkpoint= loads the weights of a run",
        ),
        (
            {"audio_weights": "a.pth"},
            "model.audio_weights=a.pth: model.audio_encoder=tiny starts from random weights; ",
        ),
    ],
)
def test_settings_that_neither_encoder_reads_are_refused_in_one_line(changes, message):
    tiny = {"image_encoder": "tiny", "audio_encoder": "tiny"}
    with pytest.raises(ValueError) as error:
        build_encoders(ModelConfig(**tiny | changes), INPUTS)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_settings_that_one_encoder_reads_are_accepted():
    config = ModelConfig(image_encoder=VIT, image_weights="random", audio_encoder="tiny", norm_eps=1e-4)
    image, _ = build_encoders(config, INPUTS)
    assert image.model.norm.eps == 1e-4
