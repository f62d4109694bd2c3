"""Render what a model finds: `python -m eval.render checkpoint=runs/demo video=in.mp4 out=out.mp4 view=heatmap`

An image with a sound: `image=dog.jpg sound=bark.wav out=out.mp4`, or for the whole sound `out=out.png`.

Each frame gets the map of the audio at its time, on one scale for the whole video. The sound is the original's; the
model gets its loudest channel. Small frames are enlarged by an integer factor, long sides above 1920 px are reduced. A
file without audio is shown with view=features, one without frames with view=audio.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

from configs.cli import run
from configs.errors import UsageError
from configs.schema import RenderConfig


def main(config: RenderConfig) -> None:
    """Load the model, write the file."""
    _check_settings(config)
    from eval.render.render import render_image, render_video
    from model.hub import load_pretrained

    captions = _read_words(Path(config.words)) if config.words else ()
    model = load_pretrained(config.checkpoint).model
    options: dict[str, Any] = {
        "view": config.view,
        "head": config.head,
        "upsampler": config.upsampler,
        "captions": captions,
    }
    if config.video:
        done = render_video(model, config.video, config.out, max_fps=config.max_fps, **options)
    else:
        done = render_image(model, config.image, config.sound, config.out, **options)
    if done.note:
        print(done.note, file=sys.stderr)
    print(done.path)


def _check_settings(config: RenderConfig) -> None:
    """Check what needs no model."""
    for key in ("checkpoint", "out"):
        if not getattr(config, key):
            raise UsageError(f"{key}= is missing")
    if bool(config.video) == bool(config.image or config.sound):
        raise UsageError("give video=, or image= and sound=")
    if not config.video and not (config.image and config.sound):
        raise UsageError("image= and sound= belong together; one of them is missing")
    out, allowed = Path(config.out), (".mp4",) if config.video else (".mp4", ".png")
    if out.is_dir() or out.suffix.lower() not in allowed:
        raise UsageError(
            f"out={config.out}{' is a folder' * out.is_dir()}: give the name of the file to write, which ends with "
            f"{' or '.join(allowed)}, such as heatmap.mp4"
        )
    for key in ("video", "image", "sound", "words"):
        path = getattr(config, key)
        if path and not Path(path).is_file():
            raise UsageError(f"{key}={path}: no such file")
        if path and out.exists() and out.samefile(path):
            raise UsageError(f"out={config.out} is the input {key}=, which would be overwritten; give another name")


def _read_words(path: Path) -> tuple[Any, ...]:
    """The words of a JSON list, or of the KEY.json of a clip, as captions."""
    from eval.render.decorations import Caption

    try:
        content = json.loads(path.read_bytes())
        items = content.get("words", []) if isinstance(content, dict) else content
        words = tuple(Caption(str(item["word"]), float(item["start_s"]), float(item["end_s"])) for item in items)
        if not all(0 <= word.start_s <= word.end_s < math.inf for word in words):
            raise ValueError("times that are not 0 <= start_s <= end_s")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        wanted = '[{"word": "dog", "start_s": 0.5, "end_s": 0.8}, ...], or the KEY.json of a clip, is wanted'
        raise UsageError(f"words={path} cannot be read ({error!r:.100}); {wanted}") from None
    return tuple(sorted(words, key=lambda word: word.start_s))


if __name__ == "__main__":
    sys.exit(run(RenderConfig, __doc__, main))
