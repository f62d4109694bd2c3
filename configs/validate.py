"""Cross-field validation of a training config."""

from __future__ import annotations

from pathlib import Path

from configs.errors import UsageError
from configs.schema import LossConfig, ModelConfig, TrainConfig

# Objectives that need a logit bias, and objectives that read label_smoothing.
WITH_LOGIT_BIAS = ("bce", "siglip")
WITH_LABEL_SMOOTHING = ("info_nce", "cross_entropy", "bce")


def validate_train_config(config: TrainConfig) -> None:
    """Check settings that are each valid but contradict each other, or that would be silently ignored.

    Raises:
        UsageError: a setting that has no effect because of another one, or a name= that is not a folder below out=.
    """
    if not Path(config.name).parts or Path(config.name).is_absolute() or ".." in Path(config.name).parts:
        raise UsageError(f"name={config.name!r}: must be the name of a folder below out={config.out}")
    _validate_best_metric(config)
    _validate_loss_settings(config.loss, config.model, len(config.stream.sources))


def _validate_best_metric(config: TrainConfig) -> None:
    best, every = config.checkpoint.best_metric, config.evaluate.every_steps
    if best and not config.evaluate.config:
        raise UsageError(f"checkpoint.best_metric={best}: needs evaluate.config=, without it nothing is evaluated")
    if best and every % config.checkpoint.every_steps:
        raise UsageError(
            f"checkpoint.best_metric={best}: evaluate.every_steps={every} must be a multiple of "
            f"checkpoint.every_steps={config.checkpoint.every_steps}, so that each evaluated step has a checkpoint"
        )


def _validate_loss_settings(loss: LossConfig, model: ModelConfig, sources: int) -> None:
    objective = f"loss.objective={loss.objective}"
    if loss.objective in WITH_LOGIT_BIAS and not model.logit_bias:
        raise UsageError(f"{objective} needs model.logit_bias=true")
    if loss.objective not in WITH_LOGIT_BIAS and model.logit_bias:
        raise UsageError(f"{objective} is invariant to a logit bias: set model.logit_bias=false")
    if loss.label_smoothing and loss.objective not in WITH_LABEL_SMOOTHING:
        raise UsageError(
            f"loss.label_smoothing={loss.label_smoothing} has no effect with {objective}, "
            f"only with {', '.join(WITH_LABEL_SMOOTHING)}"
        )
    if loss.margin != LossConfig().margin and loss.objective != "margin":
        raise UsageError(f"loss.margin={loss.margin} has no effect with {objective}, only with margin")
    if loss.disentangle and model.num_heads % 2:
        raise UsageError(
            f"loss.disentangle={loss.disentangle} needs an even number of heads, not model.num_heads={model.num_heads}"
        )
    if loss.disentangle and sources != 2:
        raise UsageError(
            f"loss.disentangle={loss.disentangle} assigns half of the heads to each of two sources, "
            f"and stream.sources has {sources}"
        )
