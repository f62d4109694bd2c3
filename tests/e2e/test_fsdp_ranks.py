"""Steps with FSDP in two processes equal those in one, for every encoder, and each rank holds half of the state."""

import pytest
from safetensors.torch import load_file
from tiny_ranks import run_ranks
from tiny_training import tiny_config, tiny_model

from model.training.fsdp import shard_model
from model.training.launch import fsdp_requested

RANKS = """
import sys
import torch
from safetensors.torch import save_file
from tiny_batch import rows, tiny_batch
from torch import distributed

from configs.schema import LossConfig, ModelConfig, OptimConfig
from model.build import build_denseav
from model.denseav import InputSpec
from model.training.clipping import build_gradient_clipper
from model.training.throughput import gradient_norms
from model.training.optim import build_optimizer
from model.training.dtensor import local_shard, full_tensor
from model.training.fsdp import shard_model, sync_unsharded_grads
from model.training.step import forward_loss

VIT = {"image_encoder": "vit_tiny_patch16_224"}
RANDOM = {"image_weights": "random", "audio_weights": "random"}
CASES = {
    "LoRA, speech transformer": (VIT | {"lora_rank": 2, "lora_dropout": 0.0, "audio_encoder": "wav2vec2_base"}, 0),
    "checkpointing": (VIT | {"audio_encoder": "mel:vit_tiny_patch16_224", "gradient_checkpointing": True}, 0),
    "chunks": (VIT | {"audio_encoder": "mel:vit_tiny_patch16_224"}, 1),
    "poolings": ({"num_heads": 1, "similarity_aggregation": "simpool", "logit_bias": True}, 0),
}
torch.set_default_dtype(torch.float64)
distributed.init_process_group("gloo")
rank, ranks = distributed.get_rank(), distributed.get_world_size()
results = {}
for name, (changes, grad_cache_chunk_size) in CASES.items():
    torch.manual_seed(0)
    settings = {"embed_dim": 24, "num_heads": 2, "image_pool_size": 1} | RANDOM | changes
    model = build_denseav(ModelConfig(**settings), InputSpec(32, 1.6, 16_000)).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):  # ranks draw different masks
            module.p = 0.0
        if type(module).__name__ == "SelfAttention":
            module.dropout = 0.0
        if type(module).__name__ == "Transformer":
            del module.layers[2:]
    count = sum(parameter.numel() for parameter in model.parameters())
    shard_model(model, "no")
    held = sum(local_shard(parameter).untyped_storage().nbytes() for parameter in model.parameters()) / 8
    config = OptimConfig(lr=1e-3, weight_decay=0.01, max_grad_norm_per_param=1e-3)
    optimizer, clipping = build_optimizer(config, model), build_gradient_clipper(config, model)
    loss = LossConfig(num_sampled_positions=20, objective="info_nce" if model.bias is None else "siglip")
    for step in range(2):
        batch = rows(tiny_batch(4, 32, 25600), slice(rank, None, ranks))
        batch.audio = batch.audio.double()
        output = forward_loss(model, batch, model.similarity_config, loss, 3, grad_cache_chunk_size)
        output.loss.backward()
        sync_unsharded_grads(model)
        parameters = [(key, p) for key, p in model.named_parameters() if p.grad is not None]
        found = {f"gradient|{key}": full_tensor(p.grad).clone() for key, p in parameters}
        found |= {f"norm|{key}": torch.tensor(value) for key, value in gradient_norms(model).items()}
        found["norm"] = clipping.clip()
        optimizer.step()
        optimizer.zero_grad()
        found |= {f"weight|{key}": full_tensor(tensor.detach()) for key, tensor in model.state_dict().items()}
        results |= {f"{name}|{step}|{key}": tensor.contiguous().clone() for key, tensor in found.items()}
    results[f"{name}|held weights"] = torch.tensor(held / count)
    moments = sum(local_shard(s["exp_avg"]).numel() for s in optimizer.state.values())
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    results[f"{name}|held moments"] = torch.tensor(moments / learning)
if rank == 0:
    save_file(results, sys.argv[1])
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_all_encoders_equal_one_process_and_each_rank_holds_half(tmp_path):
    found = []
    for ranks in (1, 2):
        done = run_ranks(RANKS, tmp_path, ranks, str(tmp_path / str(ranks)))
        assert "Warning" not in done.stderr, done.stderr
        found.append(load_file(tmp_path / str(ranks)))
    one, two = found
    assert one.keys() == two.keys() and len(one) > 100
    for name, value in one.items():
        if "held" in name:
            assert value == 1 and 0.5 <= two[name] < 0.53, (name, two[name])
        else:
            assert (two[name] - value).abs().max() <= 1e-12 + 1e-10 * value.abs().max(), name


def test_unsupported_fsdp_settings_are_errors(monkeypatch):
    assert not fsdp_requested()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert fsdp_requested()
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    with pytest.raises(ValueError, match=r"fsdp_offload_params=true .* allowed is false"):
        fsdp_requested()
    with pytest.raises(ValueError, match="mixed_precision=fp16 with distributed_type=FSDP: allowed are bf16 and no"):
        shard_model(tiny_model(tiny_config()), "fp16")
