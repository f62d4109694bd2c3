"""Figures of the reports: charts over the steps, overlays and contours."""

import re

import numpy as np

from eval.report.figures import draw_contour, line_chart, overlay, scaled_overlay, upscale_integer
from eval.report.write import write_report
from eval.results import Results


def test_chart_covers_the_steps_with_a_value_and_baselines_have_none(tmp_path):
    history = [
        {"step": n, "loss": 1.0 / n}
        | ({"eval/vggss/median/ciou": 0.1 * n, "eval/chance/vggss/median/ciou": 0.1} if n % 3 == 0 else {})
        for n in range(1, 8)
    ]
    page = write_report(Results({}, {}, []), tmp_path, history, None).read_text()
    assert (
        "eval/vggss/median/ciou: from 0.3 to 0.6" in page and page.count("<polyline") == 2 and "eval/chance" not in page
    )
    assert ">step 6<" in page and ">step 7<" in page


def test_overlay_dims_the_image_and_colors_high_values():
    image = np.full((2, 2, 3), 200, np.uint8)
    drawn = overlay(image, np.array([[0.0, 1.0], [0.0, 0.5]]))
    assert drawn[0, 0].tolist() == [150, 150, 150]
    assert drawn[0, 1, 0] > drawn[0, 1, 2] + 50
    assert image.min() == 200


def test_a_faint_heatmap_is_drawn_on_its_own_scale_which_stands_below_it():
    image, heat = np.full((40, 160, 3), 200, np.uint8), np.zeros((40, 160))
    heat[:, 80:] = 0.02
    drawn = scaled_overlay(image, heat, 0.0, 0.02)
    assert drawn.shape == (62, 160, 3)
    assert (drawn[:40] == overlay(image, heat / 0.02)).all()
    bar = drawn[51, 40:120].astype(int)
    assert (bar[-1] - bar[0])[0] > 60  # the colors of the scale from low to high
    assert (scaled_overlay(image, np.zeros((40, 160)), 0.0, 0.0)[:40] == 150).all()


def test_contour_follows_only_the_border():
    target = np.zeros((7, 7), bool)
    target[2:5, 2:5] = True
    drawn = draw_contour(np.zeros((7, 7, 3), np.uint8), target)[..., 0] > 0
    assert not drawn[3, 3] and not drawn[0, 0] and drawn[2, 2] and drawn[1, 2] and drawn[4, 3]


def test_small_images_are_enlarged_by_an_integer_factor():
    assert upscale_integer(np.zeros((20, 30, 3), np.uint8), 100).shape == (80, 120, 3)
    assert upscale_integer(np.ones((20, 30), bool), 60).shape == (40, 60)
    assert upscale_integer(np.zeros((20, 300), np.float32), 100).shape == (20, 300)


def test_chart_has_a_gap_at_nan(tmp_path):
    chart = line_chart("a <loss>", [1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, float("nan"), 4.0, 3.0])
    assert chart.lines == ["56.0,110.0 115.0,76.0", "233.0,8.0 292.0,42.0"] and (chart.low, chart.high) == (1, 4)
    assert line_chart("x", [1.0], [float("inf")]).lines == []
    history = [
        {"step": step, "a <loss>": value, "x": float("inf")} for step, value in enumerate([1.0, float("nan"), 4.0])
    ]
    page = write_report(Results({}, {}, []), tmp_path, history, None).read_text()
    assert page.count("<polyline") == 2 and "a &lt;loss&gt;" in page and re.search(r">4<", page)
    assert "<figcaption>x</figcaption><p>no finite value" in page
