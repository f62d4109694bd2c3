"""Conversion of published DenseAV checkpoints: both layouts of names, and messages for other files."""

import json
import re

import pytest
import torch
from paths import GOLDEN

from configs.schema import ConvertConfig
from model.convert.__main__ import main
from model.convert.denseav import (
    AUDIO_PROJECTION_NAMES,
    IMAGE_PROJECTION_NAMES,
    convert_projection,
    convert_state_dict,
    infer_model_config,
)
from model.projection import AudioSelfAttentionPool, ImageLinear

KEYS = json.loads((GOLDEN / "released_checkpoint_keys.json").read_text())
NEWER = (
    (r"\.qkv\.(weight|bias)$", r".qkv.base_layer.\1"),
    (r"weight_g$", "parametrizations.weight.original0"),
    (r"weight_v$", "parametrizations.weight.original1"),
)


def weights(newer: bool = False, lora: bool = True) -> dict[str, torch.Tensor]:
    """All weights, each an expanded scalar: small on disk."""
    found = {}
    for name, shape in KEYS.items():
        if "lora_" in name and not lora:
            continue
        if not lora:
            name = name.replace("image_model.base_model.model.model.", "image_model.model.")
        elif newer and name.startswith(("image_model", "audio_model")):
            for old, new in NEWER:
                name = re.sub(old, new, name)
        found[name] = torch.zeros(1).expand(shape)
    return found


def test_architecture_is_inferred_from_names_and_shapes():
    with_lora, without = infer_model_config(weights(), 2), infer_model_config(weights(lora=False), 1)
    assert (with_lora.image_encoder, with_lora.audio_encoder, with_lora.lora_rank) == (
        "vit_small_patch8_224.dino",
        "hubert_large_ls960",
        8,
    )
    assert (with_lora.embed_dim, with_lora.num_heads, with_lora.audio_conv_bias, with_lora.norm_eps) == (
        384,
        2,
        True,
        1e-4,
    )
    assert (without.lora_rank, without.num_heads) == (0, 1)


@pytest.mark.parametrize(("newer", "lora"), [(False, True), (True, True), (False, False)])
def test_every_weight_of_either_layout_is_loaded(newer, lora):
    from model.build import build_denseav
    from model.denseav import InputSpec

    stored = weights(newer, lora)
    with torch.device("meta"):
        expected = build_denseav(infer_model_config(stored, 2), InputSpec(224, 10.2625, 16_000)).state_dict()
    state, unused, missing = convert_state_dict(stored | {"running_mean": torch.zeros(1)}, expected)
    assert (unused, missing) == (["running_mean"], [])
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in expected.items()
    }


def test_reference_names_cover_every_projection_parameter_once():
    for projection, names in (
        (ImageLinear(8, 4), IMAGE_PROJECTION_NAMES),
        (AudioSelfAttentionPool(8, 12), AUDIO_PROJECTION_NAMES),
    ):
        for name in projection.state_dict():
            if name != "cls_token":
                assert sum(name.startswith(prefix) for prefix in names) == 1, name


def test_missing_projection_weight_is_named():
    with pytest.raises(ValueError, match=r"image_projection\.norm\.weight"):
        convert_projection({}, ImageLinear(8, 4))


def test_stored_cls_token_is_loaded_and_a_missing_one_keeps_its_value():
    projection = AudioSelfAttentionPool(8, 12)
    stored = {}
    for ours, theirs in AUDIO_PROJECTION_NAMES.items():
        stored |= {
            theirs + name.removeprefix(ours): tensor
            for name, tensor in projection.state_dict().items()
            if name.startswith(ours)
        }
    assert torch.equal(convert_projection(stored, projection)["cls_token"], projection.cls_token)
    vector = torch.randn(8)
    assert torch.equal(convert_projection({**stored, "audio_cls": vector}, projection)["cls_token"], vector)


@pytest.mark.slow
def test_lightning_checkpoint_is_converted_to_a_folder_that_loads(tmp_path, capsys):
    from model.hub import from_pretrained, load_pretrained

    torch.save(
        {
            "state_dict": weights(newer=True),
            "hyper_parameters": {"sim_agg_heads": 2, "sim_agg_type": "misa", "image_pool_width": 2},
            "epoch": 3,
        },
        tmp_path / "two.ckpt",
    )
    assert main(ConvertConfig(source=str(tmp_path / "two.ckpt"), out=str(tmp_path / "out"))) == 0
    assert "heads     2, 384 channels in all" in capsys.readouterr().out
    model = from_pretrained(tmp_path / "out")
    assert model.num_heads == 2 and not any(p.any() for p in model.audio_encoder.parameters())
    direct = load_pretrained(tmp_path / "two.ckpt", "cpu")
    assert direct.config == load_pretrained(tmp_path / "out", "cpu").config
    assert direct.model.state_dict().keys() == model.state_dict().keys()


@pytest.mark.slow
def test_safetensors_with_config_json_is_converted(tmp_path):
    from safetensors.torch import save_file

    from model.hub import from_pretrained

    save_file(
        {name: tensor.contiguous() for name, tensor in weights(lora=False).items()}, tmp_path / "model.safetensors"
    )
    (tmp_path / "config.json").write_text(json.dumps({"sim_agg_heads": 1, "head_agg": "sum"}))
    assert main(ConvertConfig(source=str(tmp_path / "model.safetensors"), out=str(tmp_path / "out"))) == 0
    model = from_pretrained(tmp_path / "out")
    assert (model.num_heads, model.similarity_config.head_aggregation) == (1, "sum")


def test_missing_weights_exit_with_1_and_nothing_is_written(tmp_path, capsys):
    stored = weights()
    stored.pop("audio_aligner.mod_list.2.cls_layer.bias")
    torch.save(stored, tmp_path / "short.ckpt")
    assert main(ConvertConfig(source=str(tmp_path / "short.ckpt"), out=str(tmp_path / "out"), num_heads=1)) == 1
    assert "missing  audio_projection.cls_proj.bias" in capsys.readouterr().out and not (tmp_path / "out").exists()


def _write(content):
    return lambda path: torch.save(content, path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: None, "no such file; give a published .ckpt, .pth or .safetensors"),
        (lambda path: path.write_text("text"), "cannot be read without running code in it"),
        (
            _write({"state_dict": {"a": print}}),
            "without running code in it (it holds more than tensors and plain values, or is damaged)",
        ),
        (_write({"state_dict": {}}), "no state_dict of tensors in it"),
        (_write([1]), "no state_dict of tensors in it"),
        (
            _write({"state_dict": weights()}),
            "no stored settings (hyper_parameters, or config.json in the same folder) with the number of heads; "
            "give num_heads=1",
        ),
        (
            _write({"state_dict": weights(), "hyper_parameters": {"sim_agg_heads": 1, "norm_vectors": True}}),
            "norm_vectors: true, features of length 1, which is not supported",
        ),
        (
            _write({"state_dict": weights(), "hyper_parameters": {"sim_agg_heads": 1, "sim_agg_type": "mean"}}),
            "model.similarity_aggregation=mean: allowed are misa",
        ),
        (_write({"state_dict": [1]}), "no state_dict of tensors in it"),
        (
            _write({"state_dict": weights(), "hyper_parameters": {"sim_agg_heads": 1, "sim_agg_type": ["x"]}}),
            "model.similarity_aggregation=['x']: allowed are misa",
        ),
        (
            _write(
                {
                    "state_dict": weights() | {"image_model.model.patch_embed.proj.weight": torch.zeros(3)},
                    "hyper_parameters": {"sim_agg_heads": 1},
                }
            ),
            "not a denseav checkpoint (ValueError",
        ),
        (
            _write({"state_dict": {"a": torch.zeros(1)}, "hyper_parameters": {"sim_agg_heads": 1}}),
            "not a checkpoint of a supported system (denseav)",
        ),
    ],
)
def test_invalid_file_is_one_line(tmp_path, make, message):
    make(tmp_path / "x.ckpt")
    with pytest.raises(ValueError) as error:
        main(ConvertConfig(source=str(tmp_path / "x.ckpt"), out=str(tmp_path / "out")))
    assert message in str(error.value) and "\n" not in str(error.value)
