"""Settings of a training run that are each allowed and do not go together: one would be lost without a word. Met before anything is built."""

from __future__ import annotations

from pathlib import Path

from configs.errors import UsageError
from configs.schema import LossConfig, ModelConfig, TrainConfig


def validate_train_config(config: TrainConfig) -> None:
    """Look at all of a run's settings together.

    Raises:
        UsageError: a setting that another one keeps from doing anything, or a name= that is no folder of its own.
    """
    if not Path(config.name).parts or Path(config.name).is_absolute() or ".." in Path(config.name).parts:
        raise UsageError(f"name={config.name!r}: wanted the name of a folder below out={config.out}")
    _validate_best_metric(config)
    _validate_encoder_settings(config.model)
    _validate_loss_settings(config.loss, config.model, len(config.stream.sources))


def _validate_best_metric(config: TrainConfig) -> None:
    best, every = config.checkpoint.best_metric, config.evaluate.every_steps
    if best and not config.evaluate.config:
        raise UsageError(f"checkpoint.best_metric={best}: nothing is measured, evaluate.config= is empty")
    if best and every % config.checkpoint.every_steps:
        told = (
            f"evaluate.every_steps={every} must be a multiple of checkpoint.every_steps={config.checkpoint.every_steps}"
        )
        raise UsageError(f"checkpoint.best_metric={best}: {told}, so that what is measured is kept")


def _validate_encoder_settings(model: ModelConfig) -> None:
    for encoder, name, weights in (
        ("image", model.image_encoder, model.image_weights),
        ("audio", model.audio_encoder, model.audio_weights),
    ):
        if name == "tiny" and weights not in ("pretrained", "random"):
            raise UsageError(
                f"model.{encoder}_weights={weights}: the tiny {encoder} encoder begins with random weights; init_checkpoint= gives it those of a run"
            )
    if model.image_encoder == model.audio_encoder == "tiny":
        for key in ("norm_eps", "gradient_checkpointing"):
            if value := getattr(model, key):
                raise UsageError(f"model.{key}={str(value).lower()} is for full-size encoders, and both are tiny")
    if model.audio_conv_bias and (model.audio_encoder == "tiny" or model.audio_encoder.startswith("mel:")):
        raise UsageError(
            f"model.audio_conv_bias=true is for encoders of the waveform such as hubert_base, and model.audio_encoder={model.audio_encoder}"
        )


def _validate_loss_settings(loss: LossConfig, model: ModelConfig, sources: int) -> None:
    if model.logit_bias != (loss.objective in ("bce", "siglip")):
        wanted = (
            "is blind to a bias, so model.logit_bias must be false"
            if model.logit_bias
            else "needs model.logit_bias=true"
        )
        raise UsageError(f"loss.objective={loss.objective} {wanted}")
    if loss.label_smoothing and loss.objective in ("margin", "siglip"):
        raise UsageError(
            f"loss.label_smoothing={loss.label_smoothing} does nothing with loss.objective={loss.objective}, only with info_nce, cross_entropy, bce"
        )
    if loss.margin != LossConfig().margin and loss.objective != "margin":
        raise UsageError(
            f"loss.margin={loss.margin} does nothing with loss.objective={loss.objective}, only with margin"
        )
    if loss.disentangle and model.num_heads % 2:
        raise UsageError(
            f"loss.disentangle={loss.disentangle} needs an even number of heads, model.num_heads={model.num_heads}"
        )
    if loss.disentangle and sources != 2:
        raise UsageError(
            f"loss.disentangle={loss.disentangle} gives each of two sources half of the heads, and stream.sources has {sources}"
        )
