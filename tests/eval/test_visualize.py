"""Images for experiment trackers: sheets of heatmaps, similarity matrices."""

import numpy as np
import torch

from eval.report.figures import heatmap_sheet
from eval.results import Example
from eval.visualize import similarity_matrix


def test_heatmap_sheet_has_a_row_for_each_example():
    def example(heads):
        image, flat = np.full((40, 40, 3), 128, np.uint8), np.zeros((40, 40), np.float32)
        return Example(
            "t",
            "a very long prompt " * 9,
            image,
            flat,
            np.stack([flat] * heads),
            flat > 1,
            0.5,
            np.zeros(4, np.float32),
            16000,
        )

    assert heatmap_sheet([example(2), example(1)]).shape == (2 * (160 + 2 * 22), 5 * 160, 3)


def test_similarity_matrix_is_bright_at_high_scores():
    matrix = similarity_matrix(torch.eye(4) * 3 - 1)[44:]
    assert matrix.shape == (480, 480, 3)
    cells = matrix.reshape(4, 120, 4, 120, 3)[:, 60, :, 60].astype(int).sum(axis=-1)
    assert (cells.argmax(axis=1) == np.arange(4)).all()
