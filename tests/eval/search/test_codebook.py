"""First-stage vectors: their inner product is the dense score of the quantized sound, and it ranks."""

import pytest
import torch

from eval.search.codebook import Codebook, FirstStage, audio_steps, fit_codebook, strong_cells
from model.features import AudioFeatures, ImageFeatures
from model.similarity import dense
from model.similarity.config import SimilarityConfig


def _pairs(clips=6, kinds=5, steps=8, seed=0):
    """Sounds whose steps are `kinds` directions of different lengths, and images with such cells in noise."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(kinds, 2 * 16, generator=generator), dim=1)
    kind = torch.randint(kinds, (clips, steps), generator=generator)
    length = 1 + 3 * torch.rand(clips, steps, 1, generator=generator)
    sound = (directions[kind] * length).unflatten(2, (2, 16)).permute(0, 2, 3, 1)
    cells = 0.3 * torch.randn(clips, 2, 16, 5, 5, generator=generator)
    cells[:, :, :, 2, 3] += directions[kind[:, 0]].unflatten(1, (2, 16)) * 2
    mask = torch.arange(steps) < torch.randint(3, steps + 1, (clips, 1), generator=generator)
    return ImageFeatures(cells), AudioFeatures(sound, mask)


@pytest.mark.parametrize("aggregation", ["misa", "sisa", "paired"])
def test_the_inner_product_is_the_dense_score_where_every_step_is_along_a_word(aggregation):
    image, audio = _pairs()
    config = SimilarityConfig(aggregation)
    codebook = fit_codebook(audio_steps(audio), words=32)
    assert codebook.coverage == pytest.approx(1, abs=1e-5)
    stage = FirstStage(codebook, config)
    expected = dense.similarity_per_head(audio, image, config).sum(-1)
    if aggregation == "paired":  # its mean over cells of the maximum over steps is not a mean over steps
        ranks = torch.stack([(stage.audio_vectors(audio) @ stage.image_vectors(image).T).flatten(), expected.flatten()])
        assert torch.corrcoef(ranks)[0, 1] > 0.9
    else:
        torch.testing.assert_close(stage.audio_vectors(audio) @ stage.image_vectors(image).T, expected)


def test_masked_steps_do_not_count():
    _, audio = _pairs()
    codebook = fit_codebook(audio_steps(audio))
    changed = audio._replace(dense=torch.where(audio.mask[:, None, None], audio.dense, 1e3))
    torch.testing.assert_close(codebook.audio_vectors(changed), codebook.audio_vectors(audio))


@pytest.mark.parametrize("aggregation", ["mean_pool", "cls_token"])
def test_models_of_global_vectors_are_searched_by_these(aggregation):
    image, audio = _pairs()
    image, audio = image._replace(cls=torch.randn(6, 2, 16)), audio._replace(cls=torch.randn(6, 2, 16))
    config = SimilarityConfig(aggregation)
    stage = FirstStage(Codebook(torch.zeros(4, 2, 16), 1.0), config)
    expected = dense.similarity_per_head(audio, image, config).sum(-1)
    torch.testing.assert_close(stage.audio_vectors(audio) @ stage.image_vectors(image).T, expected)


def test_the_codebook_is_a_function_of_its_vectors_and_notices_others():
    _, audio = _pairs(clips=40)
    steps = audio_steps(audio) + 0.05
    one, two = fit_codebook(steps, words=4), fit_codebook(steps, words=4)
    assert torch.equal(one.words, two.words)
    torch.testing.assert_close(one.words.flatten(1).norm(dim=1), torch.ones(4))
    assert one.measure_coverage(torch.randn(50, 2, 16)) < one.coverage - 0.1
    assert one.measure_coverage(steps[:0]) == 1


def test_strong_cells_are_those_with_the_largest_features():
    image = ImageFeatures(torch.zeros(1, 1, 3, 2, 2))
    image.dense[0, 0, :, 1, 0] = 5
    assert strong_cells(image).tolist() == [[[5, 5, 5]]]
