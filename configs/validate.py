"""Cross-field validation of a training config."""

from pathlib import Path

from configs.errors import UsageError
from configs.schema import LossConfig, TrainConfig

# Objectives that need a logit bias, and objectives that read label_smoothing.
WITH_LOGIT_BIAS = ("bce", "siglip")
WITH_LABEL_SMOOTHING = ("info_nce", "cross_entropy", "bce")
# Lengths of audio augmentations, which log-mel makes in whole steps.
AUDIO_LENGTHS = ("audio_splice_min_s", "audio_splice_fade_min_s", "time_mask_min_s")
MEL_STEP_S = 0.01


def validate_train_config(config: TrainConfig) -> None:
    """Check settings that are each valid but contradict each other, or that would be silently ignored.

    Raises:
        UsageError: a setting that has no effect because of another one, or a name= that is not a folder below out=.
    """
    name, loss, model = Path(config.name), config.loss, config.model
    best = f"checkpoint.best_metric={config.checkpoint.best_metric}"
    objective, disentangle = f"loss.objective={loss.objective}", f"loss.disentangle={loss.disentangle}"
    contradictions = (
        (
            not name.parts or name.is_absolute() or ".." in name.parts,
            f"name={config.name!r}: must be the name of a folder below out={config.out}",
        ),
        (
            config.checkpoint.best_metric and not config.evaluate.config,
            f"{best}: needs evaluate.config=, without it nothing is evaluated",
        ),
        (
            config.checkpoint.best_metric and config.evaluate.every_steps % config.checkpoint.every_steps,
            f"{best}: evaluate.every_steps={config.evaluate.every_steps} must be a multiple of "
            f"checkpoint.every_steps={config.checkpoint.every_steps}, so that each evaluated step has a checkpoint",
        ),
        (
            config.checkpoint.upload != "none" and config.tracker != "wandb",
            f"checkpoint.upload={config.checkpoint.upload} needs tracker=wandb, not tracker={config.tracker}",
        ),
        (
            config.checkpoint.upload == "best" and not config.checkpoint.best_metric,
            "checkpoint.upload=best needs checkpoint.best_metric=, without it no checkpoint is the best one",
        ),
        (
            config.stream.audio == "log_mel" and not model.audio_encoder.startswith("mel:"),
            f"stream.audio=log_mel needs an audio encoder on log-mel, model.audio_encoder=mel:NAME, "
            f"not {model.audio_encoder}",
        ),
        *(
            (
                config.stream.audio == "log_mel" and 0 < getattr(config.stream.augment, name) < MEL_STEP_S,
                f"stream.augment.{name}={getattr(config.stream.augment, name)} is not defined on log-mel "
                f"(stream.audio=log_mel), which has steps of {MEL_STEP_S} s",
            )
            for name in AUDIO_LENGTHS
        ),
        (
            loss.objective in WITH_LOGIT_BIAS and not model.logit_bias,
            f"{objective} needs model.logit_bias=true",
        ),
        (
            loss.objective not in WITH_LOGIT_BIAS and model.logit_bias,
            f"{objective} is invariant to a logit bias: set model.logit_bias=false",
        ),
        (
            loss.label_smoothing and loss.objective not in WITH_LABEL_SMOOTHING,
            f"loss.label_smoothing={loss.label_smoothing} has no effect with {objective}, "
            f"only with {', '.join(WITH_LABEL_SMOOTHING)}",
        ),
        (
            loss.margin != LossConfig().margin and loss.objective != "margin",
            f"loss.margin={loss.margin} has no effect with {objective}, only with margin",
        ),
        (
            loss.disentangle and model.num_heads % 2,
            f"{disentangle} needs an even number of heads, not model.num_heads={model.num_heads}",
        ),
        (
            loss.disentangle and len(config.stream.sources) != 2,
            f"{disentangle} assigns half of the heads to each of two sources, "
            f"and stream.sources has {len(config.stream.sources)}",
        ),
    )
    for applies, message in contradictions:
        if applies:
            raise UsageError(message)
