"""Released weights: both layouts of names, what is told of files that are something else."""

import json
import re

import pytest
import torch
from paths import GOLDEN

from configs.schema import ConvertConfig
from model.convert.__main__ import main
from model.convert.denseav import convert_state_dict, infer_model_config

KEYS = json.loads((GOLDEN / "released_checkpoint_keys.json").read_text())
NEWER = (
    (r"\.qkv\.(weight|bias)$", r".qkv.base_layer.\1"),
    (r"weight_g$", "parametrizations.weight.original0"),
    (r"weight_v$", "parametrizations.weight.original1"),
)


def weights(newer: bool = False, lora: bool = True) -> dict[str, torch.Tensor]:
    """All weights, each of one number seen many times: small on disk."""
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


def test_the_architecture_is_read_from_names_and_shapes():
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
def test_every_weight_of_either_layout_has_its_place(newer, lora):
    from model.build import build_denseav
    from model.denseav import InputSpec

    stored = weights(newer, lora)
    with torch.device("meta"):
        wanted = build_denseav(infer_model_config(stored, 2), InputSpec(224, 10.2625, 16_000)).state_dict()
    state, unused, missing = convert_state_dict(stored | {"running_mean": torch.zeros(1)}, wanted)
    assert (unused, missing) == (["running_mean"], [])
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in wanted.items()
    }


@pytest.mark.slow
def test_a_lightning_checkpoint_becomes_a_folder_that_loads(tmp_path, capsys):
    from model.hub import from_pretrained

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


@pytest.mark.slow
def test_a_safetensors_with_its_settings_beside_it_becomes_one_too(tmp_path):
    from safetensors.torch import save_file

    from model.hub import from_pretrained

    save_file(
        {name: tensor.contiguous() for name, tensor in weights(lora=False).items()}, tmp_path / "model.safetensors"
    )
    (tmp_path / "config.json").write_text(json.dumps({"sim_agg_heads": 1, "head_agg": "sum"}))
    assert main(ConvertConfig(source=str(tmp_path / "model.safetensors"), out=str(tmp_path / "out"))) == 0
    model = from_pretrained(tmp_path / "out")
    assert (model.num_heads, model.similarity_config.head_aggregation) == (1, "sum")


def test_weights_that_are_missing_end_with_no_and_nothing_is_written(tmp_path, capsys):
    stored = weights()
    stored.pop("audio_aligner.mod_list.2.cls_layer.bias")
    torch.save(stored, tmp_path / "short.ckpt")
    assert main(ConvertConfig(source=str(tmp_path / "short.ckpt"), out=str(tmp_path / "out"), num_heads=1)) == 1
    assert "missing  audio_projection.cls_proj.bias" in capsys.readouterr().out and not (tmp_path / "out").exists()


def _write(content):
    return lambda path: torch.save(content, path)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda _: None, "no such file; give a released .ckpt or .safetensors"),
        (lambda path: path.write_text("text"), "cannot be read without running code in it"),
        (
            _write({"state_dict": {"a": print}}),
            "without running code in it (it holds more than tensors and plain values, or is damaged)",
        ),
        (_write({"state_dict": {}}), "there is no state_dict of tensors in it"),
        (_write([1]), "there is no state_dict of tensors in it"),
        (
            _write({"state_dict": weights()}),
            "its settings (hyper_parameters, or config.json beside it), which tell the number of heads, are missing; give heads=1",
        ),
        (
            _write({"state_dict": weights(), "hyper_parameters": {"sim_agg_heads": 1, "norm_vectors": True}}),
            "norm_vectors: features of length 1 are not known",
        ),
        (
            _write({"state_dict": weights(), "hyper_parameters": {"sim_agg_heads": 1, "sim_agg_type": "mean"}}),
            "model.similarity_aggregation=mean: allowed are misa",
        ),
        (_write({"state_dict": [1]}), "there is no state_dict of tensors in it"),
        (
            _write({"state_dict": weights(), "hyper_parameters": {"sim_agg_heads": 1, "sim_agg_type": ["x"]}}),
            "these are not the weights of a DenseAV",
        ),
        (
            _write(
                {
                    "state_dict": weights() | {"image_model.model.patch_embed.proj.weight": torch.zeros(3)},
                    "hyper_parameters": {"sim_agg_heads": 1},
                }
            ),
            "these are not the weights of a DenseAV (ValueError",
        ),
        (
            _write({"state_dict": {"a": torch.zeros(1)}, "hyper_parameters": {"sim_agg_heads": 1}}),
            "these are not the weights of a DenseAV",
        ),
    ],
)
def test_an_odd_file_is_one_clear_line(tmp_path, make, told):
    make(tmp_path / "x.ckpt")
    with pytest.raises(ValueError) as error:
        main(ConvertConfig(source=str(tmp_path / "x.ckpt"), out=str(tmp_path / "out")))
    assert told in str(error.value) and "\n" not in str(error.value)
