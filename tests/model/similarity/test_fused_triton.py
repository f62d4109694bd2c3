"""Triton kernels against dense.py, in separate processes: Triton reads TRITON_INTERPRET once, when it is imported.

`python tests/model/similarity/test_fused_triton.py DEVICE CHECK ...` prints the outcome of checks as JSON, with
TRITON_INTERPRET=1 on `cpu`, 0 on `cuda`, or on `none`, where kernels are only compiled, without a GPU.
"""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

pytest.importorskip("triton")
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tests/support"))

if __name__ == "__main__":
    install_import_hook(["model"], "beartype.beartype")  # as in conftest.py
from triton_build import compiled, spilled_bytes

from model.features import AudioFeatures, ImageFeatures
from model.similarity import dense, fused
from model.similarity.config import SimilarityConfig

FORMS = list(
    itertools.product(("misa", "mima", "paired"), ("max_elementwise", "sum", "max"), (False, True), (False, True))
)


def random_features(device, dtype, use_cls=False, draw=torch.randn, A=3, V=3, K=3, C=5, H=3, W=4, T=7):
    """Features and a mask with 1, 2 or 4 valid steps in each row where T allows: means of whole numbers are exact."""
    shapes = [(A, K, C, T), (V, K, C, H, W)] + ([(A, K, C), (V, K, C)] if use_cls else [])
    features = [draw(shape).to(device, dtype) for shape in shapes]
    mask = torch.zeros(A, T, dtype=torch.bool, device=device)
    for a in range(A):
        mask[a, torch.randperm(T)[: min(T, 2 ** (a % 3))]] = True
    return features, mask


def run(module, features, mask, aggregation="misa", head_aggregation="max_elementwise", nonneg=False):
    """Scores, scores per head, and the gradients of both."""
    features = [feature.detach().requires_grad_() for feature in features]
    audio, image, audio_cls, image_cls = [*features, None, None][:4]
    config = SimilarityConfig(aggregation, head_aggregation, nonneg, use_cls=audio_cls is not None)
    both = AudioFeatures(audio, mask, audio_cls), ImageFeatures(image, image_cls)
    scores, by_head = module.pairwise_similarity(*both, config), module.similarity_per_head(*both, config)
    weights = torch.Generator().manual_seed(1)
    outcome = [scores, by_head]
    for score in (scores, by_head):
        weight = torch.randint(-3, 4, score.shape, generator=weights).to(score)
        outcome += torch.autograd.grad(score, features, weight)
    return outcome


def difference(features, mask, *form):
    """Largest difference of fused from dense in fp32 on the same features, relative to the largest number."""
    ours, exact = run(fused, features, mask, *form), run(dense, [feature.float() for feature in features], mask, *form)
    assert all(one.dtype == torch.float32 for one in ours[:2])
    assert all(one.dtype == features[0].dtype for one in ours[2:])
    return max(
        ((one.float() - other).abs().max() / other.abs().max().clamp(min=1e-6)).item()
        for one, other in zip(ours, exact, strict=True)
    )


def check_forms(device, forms=FORMS):
    return max(difference(*random_features(device, torch.float32, use_cls), *form) for *form, use_cls in forms)


def check_some_forms(device):
    return check_forms(device, FORMS[::11])


def check_one_step_one_cell_one_channel(device):
    return max(
        difference(*random_features(device, torch.float32, **dict.fromkeys(size, 1)), "paired")
        for size in ("T", "HW", "AVKCHWT")
    )


def check_sizes_that_fill_no_tile(device):
    """More images than a program searches, more steps and cells than a tile, more rows than a block of the sort."""
    return difference(*random_features(device, torch.float32, True, A=3, V=3, K=1, C=37, H=1, W=17, T=44), "paired")


def check_published_channels(device):
    return difference(*random_features(device, torch.float32, A=1, V=1, K=1, C=192, H=14, W=14, T=9))


def check_ties(device):
    """Sums of whole numbers are exact in any order, so ties are exact: the same arg-max, to the bit."""
    worst = 0.0
    for *form, use_cls in FORMS[::11]:
        features, mask = random_features(
            device, torch.float32, use_cls, lambda shape: torch.randint(-1, 2, shape), A=4, H=2, W=2, C=3, T=4
        )
        ours, exact = (run(module, features, mask, *form) for module in (fused, dense))
        worst = max(worst, *((one - other).abs().max().item() for one, other in zip(ours, exact, strict=True)))
    return worst


def check_half_precision(device):
    # Scores are as exact as in fp32; gradients are rounded to 8 or 11 bits once.
    return max(
        difference(*random_features(device, dtype), form)
        for dtype, form in ((torch.bfloat16, "paired"), (torch.float16, "misa"))
    )


def check_non_contiguous_features(device):
    (audio, image), mask = random_features(device, torch.float32)
    audio, image = (
        audio.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        image.permute(4, 0, 2, 3, 1).contiguous().permute(1, 4, 2, 3, 0),
    )
    return difference([audio, image], mask)


def check_nan_propagates(device):
    (audio, image), mask = random_features(device, torch.float32)
    image[1, 0, 0, 1, 1] = float("nan")
    both = AudioFeatures(audio, mask), ImageFeatures(image)
    exact, ours = (module.pairwise_similarity(*both, SimilarityConfig()).isnan() for module in (dense, fused))
    return 0.0 if torch.equal(exact, ours) and exact.any() else 1.0


def check_repeated_runs_are_identical(device):
    features, mask = random_features(device, torch.float32, A=19, V=18)
    first, second = (run(fused, features, mask, "paired") for _ in range(2))
    return 0.0 if all(map(torch.equal, first, second)) else 1.0


def check_published_size(device):
    """In bf16, with the kernels that fused chooses. Sums of eighths are exact in fp32, so near ties resolve alike."""
    eighths = lambda shape: torch.randint(-16, 17, shape) / 8  # noqa: E731
    features, mask = random_features(device, torch.bfloat16, draw=eighths, A=16, V=16, K=2, C=192, H=14, W=14, T=56)
    from model.similarity.fused import triton_search

    assert fused._backend(*(feature.flatten(3) for feature in features)) is triton_search
    return max(
        difference(features, mask, *form)
        for form in itertools.product(("misa", "mima", "paired", "sisa"), ("max_elementwise", "sum"))
    )


TYPES = {
    "argmax_ptr": "*i16",
    "valid_ptr": "*i1",
    "order_ptr": "*i32",
    "start_ptr": "*i32",
    "query_ptr": "*bf16",
    "candidate_ptr": "*bf16",
}


def compiled_search(config, capability, channels, candidates):
    from model.similarity.fused.triton_kernels import search

    flags = dict.fromkeys(("MERGED", "MASKED", "BIASED"), True)
    constants = {"M": candidates, "C": channels, "SETS": 16, "BLOCK_C": 64} | flags | config.kwargs
    return compiled(search.fn, TYPES, capability, constants, num_warps=config.num_warps, num_stages=config.num_stages)


def check_kernels_compile(_device):
    """For A100 and H100, without spilled registers."""
    from model.similarity.fused import triton_kernels as kernels

    gradient = {"M": 196, "C": 192, "BLOCK_R": 16, "BLOCK_C": 256}
    spilled = 0
    for capability in (80, 90):
        search = compiled_search(kernels.CONFIGS[2], capability, 192, 196)
        assert "max.NaN.f32" in search.asm["ptx"]
        assert capability == 80 or "wgmma" in search.asm["ptx"]
        sort = compiled(kernels.sort, TYPES, capability, {"BINS": 392, "POWER": 512, "BLOCK": 128})
        gradients = [
            compiled(kernels.query_gradients, TYPES, capability, gradient),
            compiled(kernels.candidate_gradients, TYPES, capability, gradient | {"BINS": 392}),
        ]
        spilled += sum(map(spilled_bytes, (search, sort, *gradients)))
    return spilled


def check_every_shape_compiles(_device):
    """Every shape stays within the shared memory that fitting_configs assumes."""
    from model.similarity.fused.triton_kernels import CONFIGS

    spilled = 0
    for config, capability, (channels, candidates) in itertools.product(
        CONFIGS, (80, 90), ((192, 196), (384, 196), (64, 56), (5, 7))
    ):
        search = compiled_search(config, capability, channels, candidates)
        vectors = config.kwargs["BLOCK_R"] + config.num_stages * config.kwargs["BLOCK_M"]
        assert search.metadata.shared <= vectors * -(-channels // 64) * 64 * 2 + 2048
        spilled += spilled_bytes(search)
    return spilled


# Largest allowed outcome of each check.
CHECKS = {
    check_some_forms: 1e-5,
    check_one_step_one_cell_one_channel: 1e-5,
    check_sizes_that_fill_no_tile: 1e-5,
    check_published_channels: 1e-5,
    check_ties: 0,
    check_half_precision: 2**-7,
    check_non_contiguous_features: 1e-5,
}
SLOW_CHECKS = {check_forms: 1e-5}
# The interpreter's maximum drops NaN; the other two need a GPU.
GPU_CHECKS = {check_nan_propagates: 0, check_repeated_runs_are_identical: 0, check_published_size: 2**-7}
COMPILED = {check_kernels_compile: 0}
SLOW_COMPILED = {check_every_shape_compiles: 0}


def outcomes(device, checks, cache):
    """Outcome of each check by name, computed in one separate process."""
    settings = {"TRITON_INTERPRET": str(int(device == "cpu")), "OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(cache)}
    command = [sys.executable, __file__, device, *(check.__name__ for check in checks)]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    return outcomes("cpu", CHECKS, tmp_path_factory.mktemp("triton"))


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory):
    return outcomes("cuda", CHECKS | SLOW_CHECKS | GPU_CHECKS, tmp_path_factory.mktemp("triton"))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_interpreted_kernels_equal_dense(check, interpreted):
    assert interpreted[check.__name__] <= CHECKS[check]


@pytest.mark.slow
def test_interpreted_kernels_equal_dense_for_every_setting(tmp_path):
    assert outcomes("cpu", SLOW_CHECKS, tmp_path)["check_forms"] <= SLOW_CHECKS[check_forms]


@pytest.mark.parametrize(
    "check", [*COMPILED, pytest.param(*SLOW_COMPILED, marks=pytest.mark.slow)], ids=lambda check: check.__name__
)
def test_kernels_compile_without_a_gpu(check, tmp_path):
    assert outcomes("none", [check], tmp_path)[check.__name__] == 0


@pytest.mark.gpu
@pytest.mark.parametrize("check", CHECKS | SLOW_CHECKS | GPU_CHECKS, ids=lambda check: check.__name__)
def test_kernels_equal_dense_on_a_gpu(check, on_gpu):
    assert on_gpu[check.__name__] <= (CHECKS | SLOW_CHECKS | GPU_CHECKS)[check]


def main(device, *names):
    from model.similarity.fused import triton_kernels

    torch.set_num_threads(1)
    torch.manual_seed(0)
    if device == "cpu":
        from model.similarity.fused import triton_search

        fused._backend = lambda *_: triton_search
        triton_kernels.SETS = 2  # instead of 16, so that a few images take several programs
    print(json.dumps({name: globals()[name](device) for name in names}))


if __name__ == "__main__":
    main(*sys.argv[1:])
