"""A gallery of ten thousand pairs in bounded memory, and the same results in several processes."""

import json
import os
import subprocess
import sys

import pytest
from paths import ROOT
from tiny_prompted import write_prompted
from tiny_ranks import run_ranks

MEMORY = """
import resource, sys
import torch
from eval.benchmarks.retrieval.gallery import PairFeatures
from eval.benchmarks.retrieval.benchmark import all_scores
from eval.metrics.retrieval import ranks
from model.denseav import AudioFeatures, ImageFeatures
from tiny_training import tiny_config, tiny_model

torch.set_num_threads(2)
pairs = int(sys.argv[1])
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
model = tiny_model(tiny_config("model.num_heads=2")).eval()
def make(n):
    audio = AudioFeatures(torch.randn(n, 2, 4, 5), torch.ones(n, 5, dtype=torch.bool))
    return PairFeatures(ImageFeatures(torch.randn(n, 2, 4, 3, 3)), audio)

ranks(all_scores(make(50), model))
features = make(pairs)
held = peak()
scores = all_scores(features, model)
found = ranks(scores), ranks(scores.T)
print(peak() - held, len(found[0]), scores.shape[1])
"""


@pytest.mark.slow
def test_ten_thousand_pairs_are_scored_within_a_gigabyte():
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/support'}"}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, "10000"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=580,
    )
    gigabytes, *shape = done.stdout.split()
    assert shape == ["10000", "10000"] and 0.35 < float(gigabytes) < 1.0, done.stdout


RANKS = """
import json, sys
from pathlib import Path
import torch
from accelerate import PartialState
from eval.benchmarks.retrieval import benchmark as retrieval
from eval.benchmarks.registry import build_benchmarks
from eval.benchmarks.retrieval.disentanglement import HeadDisentanglement
from eval.benchmarks.retrieval.gallery import Gallery
from eval.benchmarks.retrieval.feature_cache import FeatureCache
from eval.benchmarks.prompted_ade20k.benchmark import PromptedADE20K
from eval.benchmarks.retrieval.benchmark import Retrieval
from tiny_training import tiny_config, tiny_model

state = PartialState(cpu=True)
retrieval.MAX_SCORES = 2 * 11 * 3  # three rows at a time: uneven on two and three ranks
shards, prompted, out = sys.argv[1:]
torch.manual_seed(1)
model = tiny_model(tiny_config("model.num_heads=2")).eval()
results = {}
for run in range(2):
    gallery = Gallery(shards, 11, 2, 0, FeatureCache(f"{out}/kept{state.num_processes}"))
    prompts = PromptedADE20K(prompted, "speech", 4, 0)
    benchmarks = [Retrieval("r", gallery), HeadDisentanglement(gallery, gallery), prompts]
    found = [benchmark.evaluate(model) for benchmark in benchmarks]
    results[run] = [[dict(part) for part in (f.metrics, f.chance, f.items, f.per_class, f.intervals)] for f in found]
Path(out, f"{state.num_processes}-{state.process_index}.json").write_text(json.dumps(results))
state.destroy_process_group()
"""


@pytest.mark.slow
def test_one_and_three_processes_give_identical_json(shards, tmp_path):
    prompted = write_prompted(tmp_path / "prompted", count=7)
    for ranks in (0, 3):
        run_ranks(RANKS, tmp_path, ranks, str(shards), str(prompted), str(tmp_path))
    texts = [(tmp_path / f"{ranks}-{rank}.json").read_text() for ranks, rank in ((1, 0), (3, 0), (3, 1), (3, 2))]
    assert len(set(texts)) == 1
    first, again = json.loads(texts[0]).values()
    assert first == again and len(first[0][0]) == 6 and len(first[2][4]) >= 4
