"""The report of an evaluation: one self-contained HTML file for a person. It draws what eval.results holds and knows no model."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.figures import curve, data_address, enlarged, image_tag, outlined, overlay
from eval.results import Example, Requirement, Results
from pipelines.whole_file import whole_file

FLOORS = {"shuffled_prompts": "prompts shuffled", "untrained": "untrained", "chance": "chance"}
TASKS = {
    "ade20k_speech": "Where is what a spoken word names?",
    "ade20k_sound": "Where does this sound come from?",
    "places_retrieval": "Which picture belongs to this caption?",
    "audioset_retrieval": "Which picture belongs to this sound?",
    "disentanglement": "Do the heads divide the work?",
}
METRICS = {"map": "mAP", "miou": "mIoU", "pred_dis": "pred-dis", "act_dis": "act-dis"}
PICTURE_WIDTH_PX = 192


def write_report(results: Results, folder: Path, history: Sequence[Mapping[str, float | int]], video: Path | None) -> Path:
    """Write `folder/report.html`, which appears whole or not at all.

    Args:
        results: what was measured.
        folder: exists.
        history: one mapping for each logged step of the training, with `step`; may be empty.
        video: an mp4 to embed; None: none.

    Returns:
        The path of the report.
    """
    style = (Path(__file__).parent / "report.css").read_text()
    sections = [
        f'<h1>DenseAV, evaluated {html.escape(str(results.about.get("date", ""))[:10])}</h1><p class="headline">{html.escape(headline(results.metrics))}</p>',
        _requirements(results.requirements),
        _video(video),
        _metrics(results),
        _examples("Spoken words", "ade20k_speech", "One word or two of the prompt name the object", results.examples),
        _examples("Sounds", "ade20k_sound", "The prompt is the sound of one kind of object", results.examples),
        _heads(results.examples),
        _curves(history),
        _per_class(results.per_class),
        _about(results),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>DenseAV report</title><style>{style}</style></head><body>{''.join(sections)}</body></html>\n"
    )
    path = folder / "report.html"
    with whole_file(path) as file:
        file.write(page.encode())
    return path


def headline(metrics: Mapping[str, float]) -> str:
    """What was learnt, in words, from the numbers alone."""
    said = []
    for task, prompt in (("ade20k_speech", "Hearing a spoken word"), ("ade20k_sound", "hearing a sound")):
        key = f"{task}/basic/map"
        if key in metrics:
            beside = [f"{name} {metrics[f'{floor}/{key}']:.2f}" for floor, name in FLOORS.items() if f"{floor}/{key}" in metrics]
            said.append(f"{prompt}, the model points at the right thing with mAP {metrics[key]:.2f}" + (f" ({', '.join(beside)})" if beside else ""))
    return "; ".join(said) + "." if said else "What was measured, and what it was measured against."


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


def _video(video: Path | None) -> str:
    if video is None:
        return ""
    return (
        "<h2>A video with its heatmap</h2><p class=note>Held out of training. Bright is where the sound of the moment comes from; turn the sound on.</p>"
        f'<video controls loop playsinline src="{data_address("video/mp4", video.read_bytes())}"></video>'
    )


def _metrics(results: Results) -> str:
    floors = [floor for floor in FLOORS if any(key.startswith(floor + "/") for key in results.metrics)]
    own = [key for key in results.metrics if key.split("/")[0] not in FLOORS]
    rows, task = [], ""
    for key in own:
        if key.split("/")[0] != task:
            task = key.split("/")[0]
            rows.append(f'<tr class=group><th colspan="{3 + len(floors)}" scope="colgroup">{html.escape(TASKS.get(task, task))}</th></tr>')
        value = results.metrics[key]
        beside = [results.metrics.get(f"{floor}/{key}") for floor in floors]
        marks = "".join(f'<b style="left:{100 * v:.1f}%" title="{FLOORS[f]} {v:.3f}"></b>' for f, v in zip(floors, beside, strict=True) if v is not None)
        cells = "".join(f"<td class=number>{'' if v is None else f'{v:.3f}'}</td>" for v in beside)
        bar = f'<div class=bar><i style="width:{100 * value:.1f}%"></i>{marks}</div>'
        rows.append(
            f'<tr><td title="{html.escape(key)}">{html.escape(_metric_name(key))}</td><td class=number>{value:.3f}</td>{cells}<td class=bars>{bar}</td></tr>'
        )
    head = "".join(f"<th class=number scope=col>{FLOORS[floor]}</th>" for floor in floors)
    return (
        "<h2>Numbers</h2><p class=note>All between 0 and 1, more is better. Beside the model, measured in the same run: itself with every picture given "
        "another one's prompt (a map that ignores the prompt loses nothing by that), the same architecture with random weights, and chance.</p>"
        f"<div class=scroll><table><tr><th scope=col></th><th class=number scope=col>model</th>{head}<th scope=col></th></tr>{''.join(rows)}</table></div>"
    )


def _metric_name(key: str) -> str:
    _, variant, metric = key.split("/")
    name = METRICS.get(metric, metric.replace("recall_at_", "recall@").replace("share_of_head_", "steps won by head "))
    return f"{name}, {variant.replace('_', ' ')}" if variant != "heads" else name


def _examples(title: str, task: str, note: str, examples: Sequence[Example]) -> str:
    figures = []
    for e in (e for e in examples if e.task == task):
        image, heat, target = (enlarged(part, PICTURE_WIDTH_PX) for part in (e.image, e.heatmap, e.target))
        panels = f"{image_tag(outlined(image, target), f'the picture, {e.prompt} outlined')}{image_tag(overlay(image, heat), f'heatmap for {e.prompt}')}"
        figures.append(
            f"<figure class=example><figcaption>{html.escape(e.prompt)} <span>AP {e.average_precision:.2f}</span></figcaption>"
            f'<div class=panels>{panels}</div><audio controls preload=none src="{data_address("audio/wav", _wav(e))}"></audio></figure>'
        )
    if not figures:
        return ""
    note = f"{note}. From the best to the worst picture of the set, evenly spaced: left outlined what is meant, right the map."
    return f"<h2>{title}</h2><p class=note>{note}</p><div class=examples>{''.join(figures)}</div>"


def _heads(examples: Sequence[Example]) -> str:
    chosen = [next((e for e in examples if e.task == task), None) for task in ("ade20k_speech", "ade20k_sound")]
    figures = []
    for e in (e for e in chosen if e is not None and len(e.heads) > 1):
        image = enlarged(e.image, PICTURE_WIDTH_PX)
        panels = "".join(
            f"<div>{image_tag(overlay(image, enlarged(heat, PICTURE_WIDTH_PX)), f'head {number} for {e.prompt}')}head {number}</div>"
            for number, heat in enumerate(e.heads)
        )
        kind = "spoken word" if e.task == "ade20k_speech" else "sound"
        figures.append(f"<figure class=example><figcaption>{html.escape(e.prompt)} <span>{kind}</span></figcaption><div class=panels>{panels}</div></figure>")
    if not figures:
        return ""
    return f"<h2>Each head alone</h2><p class=note>The same prompt seen by each head, on one scale.</p><div class=examples>{''.join(figures)}</div>"


def _curves(history: Sequence[Mapping[str, float | int]]) -> str:
    if not history:
        return "<h2>Training</h2><p class=note>No history.jsonl beside this checkpoint.</p>"
    names = list(dict.fromkeys(name for line in history for name in line if name != "step"))
    charts = [curve(name, [line["step"] for line in history], [line.get(name, float("nan")) for line in history]) for name in names]
    return f"<h2>Training</h2><p class=note>Loss terms are shown before their weights.</p><div class=curves>{''.join(charts)}</div>"


def _per_class(per_class: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    tables = []
    for task, classes in per_class.items():
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td>"
            + "".join(f"<td class=number>{v[key]:{form}}</td>" for key, form in (("ap", ".3f"), ("iou", ".3f"), ("items", ".0f")))
            + "</tr>"
            for name, v in sorted(classes.items(), key=lambda pair: -pair[1]["ap"])
        )
        head = "<tr><th scope=col>class</th><th class=number scope=col>AP</th><th class=number scope=col>IoU</th><th class=number scope=col>pictures</th></tr>"
        tables.append(f"<details><summary>Classes: {html.escape(TASKS.get(task, task))}</summary><div class=scroll><table>{head}{rows}</table></div></details>")
    return "".join(tables)


def _about(results: Results) -> str:
    items = "\n".join(f"{key}: {value}" for key, value in results.items.items())
    about: dict[str, Any] = {key: value for key, value in results.about.items() if key != "config"}
    lines = "\n".join(f"{key}: {value}" for key, value in about.items())
    text = html.escape(f"{lines}\n\n{items}\n\n{results.about.get('config', '')}")
    return f"<details><summary>How this was made</summary><pre>{text}</pre></details>"


def _wav(example: Example) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, example.waveform, example.sample_rate_hz, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
