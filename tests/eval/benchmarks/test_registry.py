"""The registry: published benchmarks and data sets of one's own, and the messages for invalid settings."""

import json

import pytest
import torch
from tiny_localization import benchmark, data_settings, untrained_model, write_localization_sets
from tiny_prompted import write_prompted
from tiny_shards import write_data_set

from configs.errors import UsageError
from configs.load import load
from configs.schema import EvalConfig
from eval.benchmarks.examples import select_examples
from eval.benchmarks.registry import KINDS, benchmark_info, build_benchmarks
from eval.run import main


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folders of localization sets, prompted images and shards."""
    root = tmp_path_factory.mktemp("data")
    write_localization_sets(root)
    write_prompted(root / "prompted")
    write_data_set(root / "shards", [6], duration_s=0.8, frames=1)
    return root


def _build(*arguments):
    return build_benchmarks(load(EvalConfig, arguments))


def test_own_data_sets_have_the_metrics_of_their_kind_under_their_own_names(data, tmp_path):
    from tiny_localization import CONFIG

    from model.hub import save_pretrained

    save_pretrained(untrained_model(), CONFIG, tmp_path)
    own = {"birds": ("vggss", "vggss"), "more-birds": ("vggss", "vggss"), "clips": ("retrieval", "shards")}
    own["words"] = ("ade20k_speech", "prompted")
    settings = [f"data.{name}.kind={kind}" for name, (kind, _) in own.items()]
    settings += [f"data.{name}.root={data / folder}" for name, (_, folder) in own.items()]
    arguments = [f"checkpoint={tmp_path}", f"out={tmp_path}/out", "baselines=[chance,center_prior]", "gallery_size=6"]
    assert main(load(EvalConfig, [*arguments, *settings, f"benchmarks=[{','.join(own)}]"])) == 0
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())["metrics"]
    assert {key.partition("/")[0] for key in metrics} == {*own, "chance", "center_prior"}
    expected = benchmark(data, "vggss", batch_size=32).evaluate(untrained_model()).metrics
    for name in ("birds", "more-birds"):
        assert {key: metrics[f"{name}/{key}"] for key in expected} == expected
    assert "center_prior/words/advanced/map" in metrics and "clips/audio_to_image/recall_at_10" in metrics
    report = (tmp_path / "out/report.md").read_text()
    assert "Where does this sound come from? (birds)" in report and "VGG-SS" not in report


def test_published_benchmarks_read_the_data_sets_of_their_names_and_share_galleries(data):
    shards = [f"data.{name}.root={data}/shards" for name in ("places_audio", "audioset")]
    benchmarks = _build("benchmarks=[vggss,places_retrieval,disentanglement]", *shards, f"data.vggss.root={data}/vggss")
    assert list(benchmarks) == ["vggss", "places_retrieval", "disentanglement"]
    assert benchmarks["places_retrieval"].gallery is benchmarks["disentanglement"].speech
    assert benchmarks["vggss"].info == KINDS["vggss"].info == benchmark_info("vggss")


def test_a_published_benchmark_can_have_its_own_folder(data):
    settings = [f"data.is3.root={data}/is3", f"data.is3_masks.root={data}/elsewhere"]
    assert list(_build("benchmarks=[is3]", *settings)) == ["is3"]
    with pytest.raises(UsageError, match=r"data\.is3_masks\.root: .*/elsewhere: no metadata/synthetic3240_seg\.json"):
        _build("benchmarks=[is3_masks]", *settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.birds.kind=bird"], r"data\.birds\.kind=bird: allowed are ade20k_speech, .*, retrieval, vggss, "),
        (["data.birds.root=/d"], r"data\.birds\.kind=: allowed are ade20k_speech"),
        (["data.birds.kind=disentanglement"], r"data\.birds\.kind=disentanglement: allowed are"),
        (["data.vggss.kind=is3"], r"data\.vggss\.kind=is3: vggss is a published benchmark; choose another name"),
        (["data.chance.kind=is3"], r"data\.chance: the name belongs to a baseline"),
        (["data.a/b.kind=is3"], r"data: the name 'a/b' is invalid: allowed are letters, digits, _ and -"),
        (["data.birds.kind=vggss", "benchmarks=[birds]"], r"data\.birds\.root= is missing: benchmark birds needs"),
        (["benchmarks=[ade20k_sound]"], r"data\.prompted_ade20k\.root= is missing: benchmark ade20k_sound needs"),
        (["data.birds.kind=is3", "benchmarks=[bird]"], r"benchmarks=\['bird'\]: allowed are ade20k_speech, .*, birds$"),
        (["data.birds.kid=is3"], r"data\.birds\.kid: unknown key 'kid', did you mean kind\?"),
    ],
)
def test_invalid_settings_raise_one_line(data, arguments, message):
    settings = [f"{key}={path}" for key, path in data_settings(data).items() if key not in str(arguments)]
    with pytest.raises(UsageError, match=message) as caught:
        _build("benchmarks=[is3]", *settings, *arguments) if "benchmarks" not in str(arguments) else _build(
            *settings, *arguments
        )
    assert "\n" not in str(caught.value)


def test_examples_are_evenly_spaced_from_best_to_worst():
    nan = float("nan")
    assert select_examples(torch.tensor([0.1, nan, 0.9, 0.5, 0.5, nan])) == [2, 3, 4, 0]
    assert select_examples(torch.arange(9.0)) == [8, 6, 4, 2, 0]
    assert select_examples(torch.tensor([nan])) == select_examples(torch.zeros(0)) == []
