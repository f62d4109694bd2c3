"""The chart of similarity over time, as HTML with a line for each head and a mark that follows the video."""

from collections.abc import Sequence

_WIDTH, _HEIGHT = 1000, 100  # of the drawing, which is stretched to the page
_TICKS = 4
FOLLOW_VIDEO = """<script>
document.addEventListener("timeupdate", ({target}) => {
  const mark = document.querySelector("#timeline .mark");
  if (mark && target.closest("#result")) mark.style.left = `${100 * target.currentTime / (target.duration || 1)}%`;
}, true);
</script>"""


def timeline_html(
    times_s: Sequence[float], similarity: Sequence[Sequence[float]], colors: Sequence[Sequence[int]], duration_s: float
) -> str:
    """The chart.

    Args:
        times_s: seconds, increasing, from 0.
        similarity: a value for each time, for each head; any range.
        colors: RGB of each head, 0 to 255.
        duration_s: of the video.
    """
    values = [value for line in similarity for value in line]
    low, high, end_s = min(values), max(values), max(duration_s, 1e-3)
    names = [f"head {number}" for number in range(len(similarity))] if len(similarity) > 1 else [""]
    lines, legend = "", ""
    for name, line, color in zip(names, similarity, colors, strict=False):
        points = " ".join(
            f"{_WIDTH * time_s / end_s:.1f},{_HEIGHT * (high - value) / max(high - low, 1e-9):.1f}"
            for time_s, value in zip(times_s, line, strict=True)
        )
        style = "--line: rgb({}, {}, {})".format(*color)
        lines += f'<polyline points="{points}" style="{style}"/>'
        legend += f'<span class="head" style="{style}">{name}</span>' if name else ""
    ticks = "".join(f"<span>{end_s * tick / _TICKS:.{0 if end_s >= 8 else 1}f} s</span>" for tick in range(_TICKS + 1))
    return (
        f'<div class="caption"><span>Similarity over time ({low:.2g} to {high:.2g})</span>{legend}</div>'
        f'<div class="chart"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="Similarity over time">{lines}</svg><div class="mark"></div></div><div class="ticks">{ticks}</div>'
    )
