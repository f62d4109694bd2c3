"""A step in several processes equals the same step in one: losses and gradients, for every kind of objective."""

import pytest
import torch
from safetensors.torch import load_file
from tiny_ranks import run_ranks

RANKS = """
import sys
import torch
from safetensors.torch import save_file
from tiny_batch import rows, tiny_batch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from configs.schema import LossConfig, ModelConfig
from model.build import build_denseav
from model.inputs import InputSpec
from model.training.step import forward_loss

CASES = {
    "published": ({"num_heads": 2}, {"disentangle": 0.1}, 0),
    "chunks": ({"num_heads": 2}, {}, 1),
    "class tokens": (
        {"num_heads": 2, "add_cls_similarity": True, "similarity_aggregation": "paired", "head_aggregation": "sum"},
        {"label_smoothing": 0.1},
        0,
    ),
    "siglip": ({"num_heads": 1, "similarity_aggregation": "simpool", "logit_bias": True}, {"objective": "siglip"}, 0),
    "batch norm": ({"num_heads": 2, "image_encoder": "tiny"}, {"objective": "margin"}, 0),
    "groups": ({"num_heads": 2, "image_encoder": "tiny"}, {"objective": "info_nce", "label_smoothing": 0.1}, 0),
}
distributed.init_process_group("gloo")
rank, ranks = distributed.get_rank(), distributed.get_world_size()
dtype = getattr(torch, sys.argv[2])
results = {}
for name, (model_changes, loss_changes, grad_cache_chunk_size) in CASES.items():
    torch.manual_seed(0)
    settings = {"image_encoder": "vit_tiny_patch16_224", "image_weights": "random", "embed_dim": 24}
    settings |= {"image_pool_size": 1, "audio_encoder": "tiny"}
    model = build_denseav(ModelConfig(**settings | model_changes), InputSpec(32, 1.6, 16_000)).train()
    if grad_cache_chunk_size:  # batch norm would normalize each chunk separately
        model.audio_encoder.eval()
        for key, parameter in model.audio_encoder.named_parameters():
            # With a bias of 0, silence would be at the kink of each ReLU, where rounding decides.
            if key.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
    wrapped = DistributedDataParallel(model.to(dtype))
    batch = rows(tiny_batch(8, 32, 25600), slice(rank, None, ranks))
    batch.audio = batch.audio.to(dtype)
    if name == "groups":
        batch.group = torch.tensor([0, 1, 2, 0, 4, 1, 6, 0])[rank::ranks]
    config = LossConfig(num_sampled_positions=20, **loss_changes)
    output = forward_loss(wrapped, batch, model.similarity_config, config, 3, grad_cache_chunk_size)
    output.loss.backward()
    results |= {f"{name}|gradient|{key}": p.grad for key, p in model.named_parameters() if p.grad is not None}
    results |= {f"{name}|term|{key}": torch.tensor(value) for key, value in output.values().items()}
if rank == 0:
    save_file(results, sys.argv[1])
    print("ranks:", ranks)
distributed.destroy_process_group()
"""


def _step(folder, ranks, dtype):
    out = folder / f"{ranks}_{dtype}.safetensors"
    done = run_ranks(RANKS, folder, ranks, str(out), dtype)
    assert done.stdout == f"ranks: {ranks}\n"
    return load_file(out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def alone(folder):
    return {dtype: _step(folder, 1, dtype) for dtype in ("float64", "float32")}


def _gradient(outcome, case):
    """All gradients of a case as one vector: gradients that are 0 but for rounding have no relative error."""
    names = sorted(name for name in outcome if name.startswith(f"{case}|gradient"))
    return torch.cat([outcome[name].double().flatten() for name in names])


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_several_processes_equal_one(folder, alone, ranks, dtype):
    several, one = _step(folder, ranks, dtype), alone[dtype]
    assert several.keys() == one.keys()
    for case in sorted({name.split("|")[0] for name in one}):
        expected = _gradient(one, case)
        difference = ((_gradient(several, case) - expected).norm() / expected.norm()).item()
        # The rounding error of one process in float32.
        rounding = (
            (_gradient(alone["float32"], case) - _gradient(alone["float64"], case)).norm() / expected.norm()
        ).item()
        print(f"{case}, {ranks} processes, {dtype}: {difference:.1e} (rounding {rounding:.1e})")
        assert difference < (1e-12 if dtype == "float64" else max(1e-6, rounding)), case
        for name in one:
            if name.startswith(f"{case}|term"):
                assert several[name].item() == pytest.approx(
                    one[name].item(), rel=1e-9 if dtype == "float64" else 1e-5, abs=1e-9
                ), name
