"""Cross-field validation: contradictory settings are rejected before anything is built, the shipped configs pass."""

import pytest
from paths import ROOT

from configs.errors import UsageError
from configs.load import load
from configs.schema import TrainConfig
from configs.validate import validate_train_config

FULL_SIZE = "model.image_encoder=vit_small_patch8_224.dino"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["name="], "name='': must be the name of a folder below out=runs"),
        (["name=../demo"], "name='../demo': must be the name of a folder"),
        (["name=/tmp/demo"], "name='/tmp/demo': must be the name of a folder"),
        (["checkpoint.best_metric=a/b/c"], "checkpoint.best_metric=a/b/c: needs evaluate.config="),
        (
            ["checkpoint.best_metric=a/b/c", "evaluate.config=x", "evaluate.every_steps=1500"],
            "evaluate.every_steps=1500 must be a multiple of checkpoint",
        ),
        (
            ["loss.label_smoothing=0.1", "loss.objective=margin"],
            "loss.label_smoothing=0.1 has no effect with loss.objective=margin",
        ),
        (
            ["loss.label_smoothing=0.1", "loss.objective=siglip", "model.logit_bias=true"],
            "only with info_nce, cross_entropy, bce",
        ),
        (
            ["stream.audio=log_mel", "model.audio_encoder=hubert_base"],
            "stream.audio=log_mel needs an audio encoder on log-mel, model.audio_encoder=mel:NAME, not hubert_base",
        ),
        (
            ["stream.audio=log_mel", "model.audio_encoder=mel:x", "stream.augment.time_mask_min_s=0.005"],
            "stream.augment.time_mask_min_s=0.005 is not defined on log-mel",
        ),
        (["loss.objective=siglip"], "loss.objective=siglip needs model.logit_bias=true"),
        (["model.logit_bias=true"], "loss.objective=info_nce is invariant to a logit bias: set model.logit_bias=false"),
        (
            ["loss.disentangle=1", "model.num_heads=3"],
            "loss.disentangle=1.0 needs an even number of heads, not model.num_heads=3",
        ),
        (["loss.margin=0.5"], "loss.margin=0.5 has no effect with loss.objective=info_nce, only with margin"),
        (
            ["loss.disentangle=1", "model.num_heads=2", "stream.sources=[{name: a, shards: s}]"],
            "assigns half of the heads to each of two sources, and stream.sources has 1",
        ),
    ],
)
def test_contradictory_settings_are_rejected_in_one_line(arguments, message):
    with pytest.raises(UsageError) as error:
        validate_train_config(load(TrainConfig, arguments))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [
        *([f"config={file}"] for file in sorted((ROOT / "configs/train").glob("*.yaml"))),
        [FULL_SIZE, "model.norm_eps=1e-4", "model.gradient_checkpointing=true", "model.image_weights=w.safetensors"],
        ["model.audio_encoder=hubert_base", "model.audio_conv_bias=true", "model.audio_weights=w.pt"],
        ["stream.audio=log_mel", "model.audio_encoder=mel:vit_base_patch16_224.mae"],
        ["evaluate.config=x", "evaluate.every_steps=1500"],
        ["loss.label_smoothing=0.1", "loss.objective=bce", "model.logit_bias=true"],
        ["loss.margin=0.5", "loss.objective=margin"],
        ["loss.disentangle=1", "model.num_heads=2", "stream.sources=[{name: a, shards: s}, {name: b, shards: t}]"],
    ],
    ids=str,
)
def test_compatible_settings_pass(arguments):
    validate_train_config(load(TrainConfig, arguments))
