"""The check whether a run has learned anything."""

import pytest

from model.training.learning_check import WINDOW, LearningCheck


def _line(accuracy, loss=3.85):
    return {"accuracy": accuracy, "loss/info_nce": loss, "scores/positive": 0.1, "scores/negative": 0.1}


def _check(accuracies, batch_size=48):
    check = LearningCheck(batch_size)
    for accuracy in accuracies:
        check.add(_line(accuracy))
        check.add({"eval/ade20k_sound/basic/map": 0.1})
    return check


@pytest.mark.parametrize(
    ("accuracies", "is_flat"),
    [
        ([1 / 48] * WINDOW, True),
        ([1 / 48] * (WINDOW - 1), False),  # too few
        ([0.5] * WINDOW, False),
        ([0.02] * 50 + [0.1] * WINDOW, False),
        ([0.0, 0.04] * WINDOW, True),  # noisy, chance on average
    ],
)
def test_accuracy_near_chance_over_the_last_lines_means_nothing_is_learned(accuracies, is_flat):
    assert _check(accuracies).has_learned_nothing() == is_flat


def test_the_warning_names_the_values_beside_chance_and_comes_once_after_the_plateau():
    check = _check([1 / 48] * WINDOW)
    assert check.warning(999, min_step=1000) == ""
    text = check.warning(1000, min_step=1000)
    for part in ("step 1000", "accuracy 2.1% (chance 2.1%)", "loss/info_nce 3.85 (ln 48 = 3.87)", "0.1 of pairs"):
        assert part in text
    assert "\n" not in text and check.warning(2000, min_step=1000) == ""
