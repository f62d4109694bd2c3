"""Encoders by name. Adding one: a file with an Encoder and its EncoderBuilder, and its line here.

A name is a key (`tiny`), a key with the name of a model of that family (`mel:vit_base_patch16_224.mae`), or, without a
key, a model of the default family (`vit_small_patch8_224.dino`, `hubert_base`).
"""

from configs.schema import ModelConfig
from model.encoders import image, log_mel_vit, speech, tiny
from model.encoders.encoder import Encoder, EncoderBuilder, ImageEncoder
from model.inputs import InputSpec

IMAGE_ENCODERS = {"tiny": tiny.IMAGE, "timm": image.TIMM}
AUDIO_ENCODERS = {"tiny": tiny.AUDIO, "mel": log_mel_vit.MEL, "torchaudio": speech.SPEECH}
# Settings that only some encoders read.
_OPTIONAL = ("lora_rank", "norm_eps", "audio_conv_bias", "gradient_checkpointing")


def build_encoders(config: ModelConfig, inputs: InputSpec) -> tuple[Encoder, Encoder]:
    """Build the image and the audio encoder.

    Raises:
        ValueError: no such encoder, settings that it refuses, or a setting that neither of the two reads.
    """
    image_builder, image_name = _find(config.image_encoder, IMAGE_ENCODERS, "timm")
    audio_builder, audio_name = _find(config.audio_encoder, AUDIO_ENCODERS, "torchaudio")
    used = image_builder.settings | audio_builder.settings
    encoders = f"model.image_encoder={config.image_encoder} and model.audio_encoder={config.audio_encoder}"
    for key in _OPTIONAL:
        if (value := getattr(config, key)) and key not in used:
            shown = str(value).lower() if isinstance(value, bool) else value
            raise ValueError(f"model.{key}={shown} has no effect with {encoders}")
    for side, builder in (("image", image_builder), ("audio", audio_builder)):
        weights = getattr(config, f"{side}_weights")
        if f"{side}_weights" not in builder.settings and weights not in ("pretrained", "random"):
            encoder = f"model.{side}_encoder={getattr(config, f'{side}_encoder')}"
            raise ValueError(
                f"model.{side}_weights={weights}: {encoder} starts from random weights; "
                "init_checkpoint= loads the weights of a run"
            )
    return image_builder.build(image_name, config, inputs), audio_builder.build(audio_name, config, inputs)


def build_image_encoder(config: ModelConfig, inputs: InputSpec) -> ImageEncoder:
    """Build the image encoder of the settings by itself.

    Raises:
        ValueError: no such encoder, or settings that it refuses.
    """
    builder, name = _find(config.image_encoder, IMAGE_ENCODERS, "timm")
    encoder = builder.build(name, config, inputs)
    assert isinstance(encoder, ImageEncoder)
    return encoder


def _find(name: str, registry: dict[str, EncoderBuilder], default: str) -> tuple[EncoderBuilder, str]:
    """The builder of a name, and the name without its key."""
    key, _, rest = name.partition(":")
    return (registry[key], rest) if key in registry else (registry[default], name)
