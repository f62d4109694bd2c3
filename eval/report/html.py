"""The report as one HTML file that needs nothing beside itself: pictures, sounds and the video are in it. Text from data stays text."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.baselines import PREFIXES
from eval.report.content import Row, Section, difference, headline, item_summary, sections, with_rank_labels
from eval.report.figures import data_uri, draw_contour, image_tag, line_chart_svg, overlay, upscale_integer
from eval.report.published_results import MARKS
from eval.results import Example, Requirement, Results

PICTURE_WIDTH_PX = 192


def as_html(results: Results, history: Sequence[Mapping[str, float | int]], video: Path | None) -> str:
    """The page.

    Args:
        results: what was measured.
        history: one mapping for each logged step of the training, with `step`; may be empty.
        video: an mp4 to embed; None: none.
    """
    style = (Path(__file__).parent / "report.css").read_text()
    found = sections(results)
    parts = [
        f"<h1>DenseAV, evaluated {html.escape(str(results.about.get('date', ''))[:10])}</h1>",
        f'<p class="headline">{html.escape(headline(results.metrics))}</p>',
        _requirements(results.requirements),
        _contents(found),
        _how_to_read(found),
        *map(_section, found),
        _video(video),
        _curves(history),
        _about(results),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>DenseAV report</title><style>{style}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _requirements(requirements: Sequence[Requirement]) -> str:
    if not requirements:
        return ""
    lines = "".join(
        f'<li class="{"pass" if r.passed else "fail"}"><b>{"PASS" if r.passed else "FAIL"}</b> {html.escape(r.metric)} = {r.value:.3f}'
        f' <span class="soft">wanted {html.escape(r.wanted)}</span></li>'
        for r in requirements
    )
    met = sum(r.passed for r in requirements)
    opened = "" if met == len(requirements) else " open"
    return f"<details{opened}><summary>{met} of {len(requirements)} requirements met</summary><ul class=checks>{lines}</ul></details>"


def _contents(found: Sequence[Section]) -> str:
    if len(found) < 2:
        return ""
    links = [f'<a href="#{html.escape(section.task)}">{html.escape(section.about.name)}</a>' for section in found]
    return f"<nav>{' · '.join(links)}</nav>"


def _how_to_read(found: Sequence[Section]) -> str:
    said = {
        "shuffled_prompts": "itself with every picture given another one's prompt (a map that ignores the prompt loses nothing by that)",
        "untrained": "the same architecture with random weights",
        "global_pooling": "its own features averaged before they are compared",
        "center_prior": "a bump in the middle of every picture",
        "object_prior": "ImageNet features, which hear nothing",
        "ogl": "its map mixed with those (0.4 to 0.6, what this field reports)",
        "chance": "chance",
    }
    baselines = [text for prefix, text in said.items() if any(prefix in section.prefixes for section in found)]
    beside = (
        f" Beside the model, measured in the same run and marked in its bar: {', '.join(baselines)}."
        if baselines
        else ""
    )
    intervals = (
        " In brackets: 95 % of what other items of the same kind would give."
        if any(row.interval for s in found for row in s.rows)
        else ""
    )
    marks = "; ".join(f"{mark}: {meaning}" for mark, meaning in MARKS.items())
    published = (
        f" Grey rows: what others report, on the published data ({marks})."
        if any(row.published for s in found for row in s.rows)
        else ""
    )
    return (
        f"<p class=note>Numbers lie between 0 and 1, more is better.{beside}{intervals}{published}</p>" if found else ""
    )


def _section(section: Section) -> str:
    about = section.about
    name = f" <span>{html.escape(about.name)}</span>" if about.name != about.question else ""
    terms = f"<p class=note>Terms of the published data. {html.escape(about.terms)}</p>" if about.terms else ""
    return (
        f'<section id="{html.escape(section.task)}"><h2>{html.escape(about.question)}{name}</h2><p class=note>{html.escape(item_summary(section))}</p>'
        f"{_table(section)}{_examples(section.examples)}{_classes(section)}{terms}</section>"
    )


def _table(section: Section) -> str:
    if not section.rows:
        return ""
    rows = "".join(_row(row, section.prefixes) + _published(row, section) for row in section.rows)
    head = "".join(f"<th class=number scope=col>{PREFIXES[prefix]}</th>" for prefix in section.prefixes)
    return (
        "<div class=scroll><table><thead><tr><th scope=col></th><th class=number scope=col colspan=2>model</th>"
        f"<th class=bars scope=col></th>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(row: Row, prefixes: Sequence[str]) -> str:
    cells = "".join(
        f"<td class=number>{f'{row.beside[prefix]:.3f}' if prefix in row.beside else ''}</td>" for prefix in prefixes
    )
    marks = "".join(
        f'<b style="left:{100 * value:.1f}%" title="{PREFIXES[prefix]} {value:.3f}"></b>'
        for prefix, value in row.beside.items()
    )
    low, high = row.interval or (0, 0)
    span = f'<u style="left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%"></u>' if row.interval else ""
    bar = f'<div class=bar><i style="width:{100 * row.value:.1f}%"></i>{span}{marks}</div>'
    interval = f"[{low:.3f}, {high:.3f}]" if row.interval else ""
    return (
        f'<tr><td title="{html.escape(row.key)}">{html.escape(row.name)}</td><td class=number>{row.value:.3f}</td><td class="number soft">{interval}</td>'
        f"<td class=bars>{bar}</td>{cells}</tr>"
    )


def _published(row: Row, section: Section) -> str:
    return "".join(
        f"<tr class=published><td>{html.escape(figure.system)}, published ({figure.mark})</td><td class=number>{figure.value:.3f}</td>"
        f"<td colspan={2 + len(section.prefixes)}>{html.escape(difference(section, figure))}</td></tr>"
        for figure in row.published
    )


def _examples(examples: Sequence[Example]) -> str:
    figures = []
    for place, e in with_rank_labels(examples):
        image, heat, target = (upscale_integer(part, PICTURE_WIDTH_PX) for part in (e.image, e.heatmap, e.target))
        panels = f"{image_tag(draw_contour(image, target), f'the picture, {e.prompt} outlined')}{image_tag(overlay(image, heat), f'heatmap for {e.prompt}')}"
        figures.append(
            f"<figure class=example><figcaption>{html.escape(e.prompt)} <span>{f'{place}, ' if place else ''}{e.value}</span></figcaption>"
            f'<div class=panels>{panels}</div><audio controls preload=none src="{data_uri("audio/mpeg", _mp3(e))}"></audio></figure>'
        )
    if not figures:
        return ""
    if examples[0].place is None:
        note = (
            "From the best to the worst picture of the set, evenly spaced: left outlined what is meant, right the map."
        )
    else:
        note = "Sounds whose own picture comes first among all pictures, to those whose picture comes last, evenly spaced; right the map of the pair."
    return f"<p class=note>{note}</p><div class=examples>{''.join(figures)}{_heads(examples[0])}</div>"


def _heads(best: Example) -> str:
    if len(best.heads) == 1:
        return ""
    image = upscale_integer(best.image, PICTURE_WIDTH_PX)
    panels = "".join(
        f"<div>{image_tag(overlay(image, upscale_integer(heat, PICTURE_WIDTH_PX)), f'head {number} for {best.prompt}')}head {number}</div>"
        for number, heat in enumerate(best.heads)
    )
    return f"<figure class=example><figcaption>each head alone <span>best, on one scale</span></figcaption><div class=panels>{panels}</div></figure>"


def _classes(section: Section) -> str:
    if not section.classes:
        return ""
    columns = (("ap", ".3f"), ("iou", ".3f"), ("items", ".0f"))
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td>{''.join(f'<td class=number>{values[key]:{form}}</td>' for key, form in columns)}</tr>"
        for name, values in section.classes.items()
    )
    head = "<tr><th scope=col>class</th><th class=number scope=col>AP</th><th class=number scope=col>IoU</th><th class=number scope=col>items</th></tr>"
    return f"<details><summary>{len(section.classes)} classes</summary><div class=scroll><table class=classes>{head}{rows}</table></div></details>"


def _video(video: Path | None) -> str:
    if video is None:
        return ""
    return (
        "<h2>A video with its heatmap</h2><p class=note>Bright is where the sound of the moment comes from; turn the sound on.</p>"
        f'<video controls loop playsinline src="{data_uri("video/mp4", video.read_bytes())}"></video>'
    )


def _curves(history: Sequence[Mapping[str, float | int]]) -> str:
    if not history:
        return "<h2>Training</h2><p class=note>No history.jsonl beside this checkpoint.</p>"
    baselines = tuple(f"eval/{prefix}/" for prefix in PREFIXES)  # measured once
    names = dict.fromkeys(
        name for line in history for name in line if name != "step" and not name.startswith(baselines)
    )
    charts = []
    for name in names:
        lines = [line for line in history if name in line]
        charts.append(line_chart_svg(name, [line["step"] for line in lines], [line[name] for line in lines]))
    return f"<h2>Training</h2><p class=note>Loss terms are shown before their weights.</p><div class=curves>{''.join(charts)}</div>"


def _about(results: Results) -> str:
    lines = "\n".join(f"{key}: {value}" for key, value in results.about.items() if key != "config")
    text = html.escape(f"{lines}\n\n{results.about.get('config', '')}")
    return f"<details><summary>How this was made</summary><pre>{text}</pre></details>"


def _mp3(example: Example) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, example.waveform, example.sample_rate_hz, format="MP3")
    return buffer.getvalue()
