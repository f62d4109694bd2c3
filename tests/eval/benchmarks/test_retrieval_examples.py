"""Pairs of a gallery for the report: from the best to the worst rank, with the heatmap of each pair."""

import numpy as np
import pytest
import torch
from tiny_shards import write_data_set
from tiny_training import tiny_config, tiny_model

from eval.benchmarks.retrieval.benchmark import Retrieval
from eval.benchmarks.retrieval.examples import retrieval_examples
from eval.benchmarks.retrieval.gallery import Gallery
from eval.report.figures import heatmap_sheet
from pipelines.stream.batch import collate
from pipelines.stream.reader import ClipReader


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return tiny_model(tiny_config()).eval()


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    return Gallery(str(write_data_set(tmp_path_factory.mktemp("g") / "set", [7, 6], frames=1)), 13, 4, 0)


def test_retrieval_examples_go_from_best_to_worst_rank(gallery, model):
    gallery.encode(model)
    ranks = torch.tensor([4, 1, 9, 13, 2, 2, 7, 5, 11, 3, 8, 6, 10])
    examples = retrieval_examples("places_retrieval", gallery, model, ranks)
    assert [e.rank for e in examples] == [1, 3, 6, 9, 13]  # sorted: 1 2 2 3 4 5 6 7 8 9 10 11 13
    reader = ClipReader(gallery.index, *model.inputs)
    for example in examples:
        clip = gallery.clips[ranks.tolist().index(example.rank)]
        assert example.prompt.startswith(gallery.index.id(clip)) and example.value == f"rank {example.rank}"
        frame = collate([gallery.item(reader, clip)]).to("cpu").frames[0]
        assert np.array_equal(example.image, frame.permute(1, 2, 0).numpy())
        assert (
            (example.heatmap.min(), example.heatmap.max()) == (0, 1)
            and not example.target.any()
            and len(example.waveform) == 8000
        )
        assert example.heads.min() >= 0 and example.heads.max() <= 1 and len(example.heads) == model.num_heads
    assert heatmap_sheet(examples).shape == (5 * (160 + 2 * 22), (2 + model.num_heads) * 160, 3)  # no target


def test_gallery_of_one_pair_has_one_example(tmp_path, model):
    measured = Retrieval("x", Gallery(str(write_data_set(tmp_path / "one", [1], frames=1)), 5, 4, 0)).evaluate(model)
    assert [e.rank for e in measured.examples] == [1]


def test_ranks_of_examples_agree_with_recall(gallery, model):
    measured = Retrieval("places_retrieval", gallery).evaluate(model)
    first = measured.metrics["audio_to_image/recall_at_1"]
    assert (measured.examples[0].rank == 1) == (first > 0) and (measured.examples[-1].rank > 10) == (
        measured.metrics["audio_to_image/recall_at_10"] < 1
    )
    assert {e.task for e in measured.examples} == {"places_retrieval"}
