"""The chart of similarity over time."""

import re

from eval.app.timeline import timeline_html

COLORS = [[230, 159, 0], [86, 180, 233]]


def test_lines_span_the_duration_of_the_video_and_the_range_of_all_heads():
    html = timeline_html([0.0, 1.0, 2.0], [[0.0, 1.0, 0.5], [0.25, 0.25, -1.0]], COLORS, 4.0)
    assert re.findall(r'points="([^"]*)"', html) == ["0.0,50.0 250.0,0.0 500.0,25.0", "0.0,37.5 250.0,37.5 500.0,100.0"]
    assert re.findall(r"--line: (rgb\([^)]*\))\"/>", html) == ["rgb(230, 159, 0)", "rgb(86, 180, 233)"]
    assert re.findall(r"<span>([\d.]+ s)</span>", html) == ["0.0 s", "1.0 s", "2.0 s", "3.0 s", "4.0 s"]
    assert "-1 to 1" in html and "head 0" in html and "head 1" in html


def test_one_head_has_no_legend_and_a_constant_line_is_drawn():
    html = timeline_html([0.0, 10.0], [[0.5, 0.5]], COLORS, 10.0)
    assert "head 0" not in html and 'points="0.0,0.0 1000.0,0.0"' in html
