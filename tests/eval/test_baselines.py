"""Baselines: each applies to the right benchmarks, has the right values, and leaves the model unchanged."""

import copy
from functools import partial

import pytest
import torch
from tiny_evaluation import write_evaluation
from tiny_localization import data_settings, write_localization_sets
from tiny_training import tiny_config, tiny_model

from configs.errors import CommandFailed, UsageError
from configs.load import load
from configs.schema import EvalConfig
from eval.baselines import Baselines
from eval.benchmarks.benchmark import Benchmark
from eval.benchmarks.localization.benchmark import Localization
from eval.benchmarks.localization.heatmap_sources import ModelMaps, ObjectPrior, center_prior, object_guided
from eval.benchmarks.registry import build_benchmarks
from eval.benchmarks.retrieval.benchmark import globally_pooled
from eval.metrics.retrieval import recall_at_k
from eval.results import PREFIXES, is_model_metric
from eval.run import evaluate
from model.similarity.global_pooling import mean_pool

NAMES = ["vggss", "extended_flickr", "ade20k_sound", "audioset_retrieval", "disentanglement"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    settings = write_evaluation(root, video=False)
    twins = data_settings(write_localization_sets(root / "twins"))
    own = {"config": settings, "benchmarks": NAMES, **twins}
    return lambda **more: load(EvalConfig, [f"{key}={value}" for key, value in {**own, **more}.items()])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return tiny_model(tiny_config()).eval()


def _small(config):
    """The benchmarks with a few items of each set."""
    benchmarks = build_benchmarks(config)
    for benchmark in benchmarks.values():
        if isinstance(benchmark, Localization):
            benchmark.items = benchmark.items[:3] + benchmark.items[-3:]
    return benchmarks


def _evaluate(config, model, benchmarks=None):
    benchmarks = benchmarks or _small(config)
    return evaluate(config, benchmarks, model, Baselines(config, benchmarks), dict)


def test_each_baseline_is_measured_on_the_benchmarks_it_applies_to(world, model):
    config = world(
        baselines="[chance,shuffled_prompts,center_prior,global_pooling,object_prior]", object_prior="random"
    )
    metrics = _evaluate(config, model).metrics
    tasks = {prefix: {key.split("/")[1] for key in metrics if key.startswith(f"{prefix}/")} for prefix in PREFIXES}
    maps = {"vggss", "extended_flickr"}
    assert tasks == {
        "chance": {*maps, "ade20k_sound", "audioset_retrieval"},
        "shuffled_prompts": {*maps, "ade20k_sound"},
        "center_prior": {*maps, "ade20k_sound"},
        "object_prior": maps,
        "ogl": maps,
        "global_pooling": {"audioset_retrieval"},
        "untrained": set(),
        "bilinear": set(),
    }
    own = {key for key in metrics if is_model_metric(key)}
    assert own and all(key.partition("/")[2] in own for key in metrics if not is_model_metric(key))


def test_prior_baselines_equal_the_benchmark_with_their_maps(world, model):
    config = world(baselines="[center_prior,object_prior]", object_prior="random", benchmarks="[vggss]")
    benchmarks = _small(config)
    metrics = _evaluate(config, model, benchmarks).metrics
    torch.manual_seed(config.seed)
    prior = ObjectPrior("random")
    for prefix, source in (
        ("center_prior", center_prior),
        ("object_prior", prior),
        ("ogl", partial(object_guided, own=ModelMaps(model), prior=prior)),
    ):
        expected = benchmarks["vggss"].evaluate(model, source=source).metrics
        assert {key: metrics[f"{prefix}/vggss/{key}"] for key in expected} == expected
    assert metrics["object_prior/vggss/median/auc"] != metrics["ogl/vggss/median/auc"] != metrics["vggss/median/auc"]


def test_center_prior_finds_objects_in_the_middle_of_prompted_images(world, model):
    config = world(baselines="[center_prior]", benchmarks="[ade20k_speech]")
    (benchmark,) = build_benchmarks(config).values()
    metrics = _evaluate(config, model, {"ade20k_speech": benchmark}).metrics
    assert {key for key in metrics if not is_model_metric(key)} == {
        f"center_prior/{key}" for key in metrics if is_model_metric(key)
    }
    assert metrics["center_prior/ade20k_speech/basic/map"] == metrics["center_prior/ade20k_speech/advanced/map"]
    edge = benchmark.evaluate(model, source=lambda items: -center_prior(items)).metrics["basic/map"]
    assert metrics["center_prior/ade20k_speech/basic/map"] > 2 * edge  # the squares are drawn around the middle


def test_global_pooling_reuses_encoded_features_and_restores_the_model(world, model):
    config = world(baselines="[global_pooling]", benchmarks="[audioset_retrieval]")
    settings, calls = model.similarity_config, []
    hook = model.image_encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    benchmarks = build_benchmarks(config)
    metrics = _evaluate(config, model, benchmarks).metrics
    hook.remove()
    image, audio = benchmarks["audioset_retrieval"].gallery.encode(model)
    sounds, pictures = mean_pool(audio, image)
    scores = torch.einsum("akc,vkc->av", sounds, pictures)
    assert metrics["global_pooling/audioset_retrieval/image_to_audio/recall_at_1"] == recall_at_k(scores.T, 1)
    assert metrics["global_pooling/audioset_retrieval/audio_to_image/recall_at_5"] == recall_at_k(scores, 5)
    assert model.similarity_config == settings and len(calls) <= 6  # 9 readable clips of 12 in batches of 2, once


def test_similarity_settings_are_restored_after_an_error(model):
    settings = model.similarity_config
    with pytest.raises(ZeroDivisionError), globally_pooled(model):
        assert model.similarity_config.aggregation == "mean_pool"
        raise ZeroDivisionError
    assert model.similarity_config == settings


def test_globally_pooled_model_has_no_global_pooling_baseline(world, model):
    pooled = copy.copy(model)
    pooled.similarity_config = model.similarity_config._replace(aggregation="mean_pool")
    metrics = _evaluate(world(baselines="[global_pooling]", benchmarks="[audioset_retrieval]"), pooled).metrics
    assert metrics and all(map(is_model_metric, metrics))


def test_random_object_prior_is_the_same_on_every_rank_and_keeps_the_random_state(world):
    config = world(baselines="[object_prior]", object_prior="random", benchmarks="[vggss]")
    benchmarks = build_benchmarks(config)
    before = torch.random.get_rng_state()
    one = Baselines(config, benchmarks)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(3)
    other = Baselines(config, benchmarks)
    items = benchmarks["vggss"].items[:2]
    assert torch.equal(one.prior(items), other.prior(items))


def test_object_prior_weights_are_loaded_only_for_localization(world, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    config = world(baselines="[object_prior]", benchmarks="[audioset_retrieval]")
    assert Baselines(config, build_benchmarks(config)).prior is None
    config = world(baselines="[object_prior]", benchmarks="[vggss]")
    with pytest.raises(UsageError, match=r"object_prior=pretrained: .*give a file, or random") as error:
        Baselines(config, build_benchmarks(config))
    assert "\n" not in str(error.value)


def test_unknown_baseline_is_refused():
    names = "chance, untrained, shuffled_prompts, center_prior, global_pooling, object_prior"
    assert load(EvalConfig, [f"baselines=[{names}]"]).baselines == names.split(", ")
    with pytest.raises(UsageError, match=rf"baselines\.1=luck: allowed are {names} \(from the command line\)"):
        load(EvalConfig, ["baselines=[chance,luck]"])


def test_intervals_cover_all_model_metrics_and_no_baselines(world, model):
    results = _evaluate(world(baselines="[chance,center_prior]", benchmarks="[vggss,extended_flickr]"), model)
    assert results.intervals.keys() == {key for key in results.metrics if is_model_metric(key)}
    assert all(low <= results.metrics[key] <= high for key, (low, high) in results.intervals.items())
    assert any(low < high for low, high in results.intervals.values())


def test_metric_that_is_not_finite_stops_the_evaluation(world, model):
    class Broken(Benchmark):
        def evaluate(self, model):  # noqa: ARG002
            from eval.results import BenchmarkResult

            return BenchmarkResult({"basic/map": float("nan")}, {}, {})

    with pytest.raises(CommandFailed, match="broken/basic/map is nan"):
        _evaluate(world(baselines="[]"), model, {"broken": Broken("broken")})
