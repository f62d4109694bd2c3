"""Conversion of published upsamplers: exact weights, and one line for every file that does not fit."""

import json

import numpy as np
import pytest
import torch
from paths import GOLDEN
from published_featup import LAYOUT, checkpoint
from safetensors import safe_open

from configs.errors import UsageError
from configs.schema import ConvertConfig
from model.convert.__main__ import main
from model.convert.upsampler_file import read_upsampler

VARIANTS = [(name, variant) for name, model in LAYOUT["models"].items() for variant in model["variants"]]


def golden(name):
    """Parameters and tensors of a golden case."""
    with safe_open(GOLDEN / f"featup/{name}.safetensors", "pt") as file:
        return json.loads(file.metadata()["case"])["params"], {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def stored_state(tensors):
    return {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}


def message(tmp_path, content, name="file.ckpt"):
    """The one line for a file with this content."""
    torch.save(content, tmp_path / name)
    with pytest.raises(UsageError) as caught:
        read_upsampler(str(tmp_path / name))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_every_published_layout_is_read_completely(tmp_path, name, variant):
    content = checkpoint(name, variant == "norm")
    torch.save(content, tmp_path / "file.ckpt")
    loaded = read_upsampler(str(tmp_path / "file.ckpt"))
    assert loaded.settings == {"channels": LAYOUT["models"][name]["channels"], "has_norm": variant == "norm"}
    stored = content["state_dict"]
    for key, value in loaded.module.state_dict().items():
        published = f"model.1.{key.removeprefix('norm.')}" if key.startswith("norm.") else key
        assert torch.equal(value, stored.pop(published)), key
    assert all(key.startswith(("model.", "downsampler.", "scale_net.")) for key in stored), list(stored)


def test_a_converted_folder_gives_the_features_of_the_published_code(tmp_path, capsys):
    params, tensors = golden("featup_released_upsampler_00")
    source = tmp_path / "file.ckpt"
    torch.save(checkpoint(params["model"], params["normalised"]), source)
    assert main(ConvertConfig(source=str(source), out=str(tmp_path / "out"))) == 0
    assert f"channels {params['channels']}, has_norm {params['normalised']}" in capsys.readouterr().out
    module = read_upsampler(str(tmp_path / "out")).module

    random = np.random.RandomState(params["input_seed"])
    image, features = (
        torch.from_numpy(random.standard_normal(params[name]).astype(np.float32)) for name in ("image", "features")
    )
    with torch.inference_mode():
        upsampled = module(features, image)
    steps = [slice(None, None, params[f"{name}_step"]) for name in ("channel", "row", "column")]
    expected = tensors["out.features"]
    assert (upsampled[(slice(None), *steps)] - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_a_weight_that_is_missing_unexpected_or_of_another_shape_is_named_in_one_line(tmp_path):
    content = checkpoint("dino16", True)
    state = content["state_dict"]
    del state["upsampler.up2.range_temp"]
    state["upsampler.up5.range_temp"] = torch.zeros(())
    state["model.1.norm.bias"] = torch.zeros(512)
    assert message(tmp_path, content).endswith(
        "file.ckpt: missing: upsampler.up2.range_temp; unexpected: upsampler.up5.range_temp; "
        "other shapes: model.1.norm.bias [512] instead of [384]"
    )


@pytest.mark.parametrize("name", ["dino16", "resnet50"])
def test_no_weight_that_the_upsampler_needs_may_be_missing(tmp_path, name):
    state = checkpoint(name, True, backbone=False)["state_dict"]
    needed = [key for key in state if key.startswith(("upsampler.", "model.1."))]
    assert len(needed) == 44
    for key in needed[::6]:
        assert key in message(tmp_path, {"state_dict": {k: v for k, v in state.items() if k != key}})


def test_a_file_that_runs_code_is_refused(tmp_path):
    content = checkpoint("dino16", False) | {"callbacks": print}
    assert "cannot be read without running code in it" in message(tmp_path, content)


@pytest.mark.parametrize("case", ["anyup_00", "anyup_01"])
def test_a_published_anyup_is_read_and_its_weights_are_complete(tmp_path, case):
    params, tensors = golden(case)
    state = stored_state(tensors)
    torch.save(state, tmp_path / "anyup_paper.pth")
    loaded = read_upsampler(str(tmp_path / "anyup_paper.pth"))
    assert loaded.settings == {
        "channels": params["qk_dim"],
        "kernel": params["unification_kernel"],
        "published_order": True,
    }
    state["image_encoder.9.weight"] = state.pop("image_encoder.0.weight")
    text = message(tmp_path, state, "anyup_paper.pth")
    assert text.endswith("missing: image_encoder.0.weight; unexpected: image_encoder.9.weight")


@pytest.mark.parametrize("transposed", [False, True])
def test_a_saved_implicit_model_gives_features_of_the_encoder(tmp_path, transposed):
    params, tensors = golden("implicit_upsampler_00")
    components, mean = torch.randn(params["channels"], 50), torch.randn(50)
    projection = {
        "components_": components.T.contiguous() if transposed else components,
        "singular_values_": torch.ones(params["channels"]),
        "mean_": mean,
    }
    content = {"model": stored_state(tensors), "unprojector": projection}
    torch.save(content, tmp_path / "image.pth")
    with torch.inference_mode():
        found = read_upsampler(str(tmp_path / "image.pth")).module(tensors["in.image"])
    expected = torch.einsum("bdhw,dc->bchw", tensors["out.features"], components) + mean[:, None, None]
    assert torch.allclose(found, expected, atol=1e-2 * expected.abs().max().item())
    content["unprojector"] = projection | {"mean_": mean[:7]}
    assert "other shapes: components_" in message(tmp_path, content)
    del content["model"]["4.bias"]
    assert "missing: 4.bias" in message(tmp_path, content)


def test_something_else_is_no_upsampler(tmp_path):
    assert "not a checkpoint of a supported upsampler (featup, featup_implicit, anyup, jbu, naf, jafar)" in message(
        tmp_path, {"weight": torch.zeros(1)}
    )
    (tmp_path / "config.json").write_text('{"upsampler": "liif"}')
    with pytest.raises(UsageError, match="not a folder of an upsampler"):
        read_upsampler(str(tmp_path))
