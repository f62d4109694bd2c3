"""Settings that do not go together are told before anything is built; those the configs use, go together."""

import pytest
from paths import ROOT

from configs.errors import UsageError
from configs.load import load
from configs.schema import TrainConfig
from configs.validate import validate_train_config

FULL_SIZE = "model.image_encoder=vit_small_patch8_224.dino"


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["name="], "name='': wanted the name of a folder below out=runs"),
        (["name=../demo"], "name='../demo': wanted the name of a folder"),
        (["name=/tmp/demo"], "name='/tmp/demo': wanted the name of a folder"),
        (["checkpoint.best_metric=a/b/c"], "checkpoint.best_metric=a/b/c: nothing is measured"),
        (
            ["checkpoint.best_metric=a/b/c", "evaluate.config=x", "evaluate.every_steps=1500"],
            "evaluate.every_steps=1500 must be a multiple of checkpoint",
        ),
        (["model.norm_eps=1e-4"], "model.norm_eps=0.0001 is for full-size encoders, and both are tiny"),
        (["model.gradient_checkpointing=true"], "model.gradient_checkpointing=true is for full-size encoders"),
        (
            ["model.image_weights=w.safetensors"],
            "model.image_weights=w.safetensors: the tiny image encoder begins with random weights",
        ),
        (["model.audio_weights=w.pt", FULL_SIZE], "model.audio_weights=w.pt: the tiny audio encoder"),
        (
            ["model.audio_conv_bias=true"],
            "model.audio_conv_bias=true is for encoders of the waveform such as hubert_base, and model.audio_encoder=tiny",
        ),
        (
            ["model.audio_conv_bias=true", "model.audio_encoder=mel:vit_base_patch16_224.mae"],
            "model.audio_encoder=mel:vit_base_patch16_224.mae",
        ),
        (
            ["loss.label_smoothing=0.1", "loss.objective=margin"],
            "loss.label_smoothing=0.1 does nothing with loss.objective=margin",
        ),
        (
            ["loss.label_smoothing=0.1", "loss.objective=siglip", "model.logit_bias=true"],
            "only with info_nce, cross_entropy, bce",
        ),
        (["loss.objective=siglip"], "loss.objective=siglip needs model.logit_bias=true"),
        (["model.logit_bias=true"], "loss.objective=info_nce is blind to a bias, so model.logit_bias must be false"),
        (
            ["loss.disentangle=1", "model.num_heads=3"],
            "loss.disentangle=1.0 needs an even number of heads, model.num_heads=3",
        ),
        (["loss.margin=0.5"], "loss.margin=0.5 does nothing with loss.objective=info_nce, only with margin"),
        (
            ["loss.disentangle=1", "model.num_heads=2", "stream.sources=[{name: a, shards: s}]"],
            "each of two sources half of the heads, and stream.sources has 1",
        ),
    ],
)
def test_what_does_nothing_or_cannot_be_is_refused(arguments, told):
    with pytest.raises(UsageError) as error:
        validate_train_config(load(TrainConfig, arguments))
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [
        *([f"config={file}"] for file in sorted((ROOT / "configs/train").glob("*.yaml"))),
        [FULL_SIZE, "model.norm_eps=1e-4", "model.gradient_checkpointing=true", "model.image_weights=w.safetensors"],
        ["model.audio_encoder=hubert_base", "model.audio_conv_bias=true", "model.audio_weights=w.pt"],
        ["evaluate.config=x", "evaluate.every_steps=1500"],
        ["loss.label_smoothing=0.1", "loss.objective=bce", "model.logit_bias=true"],
        ["loss.margin=0.5", "loss.objective=margin"],
        ["loss.disentangle=1", "model.num_heads=2", "stream.sources=[{name: a, shards: s}, {name: b, shards: t}]"],
    ],
    ids=str,
)
def test_what_goes_together_is_let_through(arguments):
    validate_train_config(load(TrainConfig, arguments))
