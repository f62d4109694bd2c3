"""Render a video with its heatmap: `python -m eval.render checkpoint=runs/demo video=in.mp4 out=out.mp4`

Each frame gets the heatmap of the audio at its time, scaled over the whole video, and the audio channel that the model
hears. Small frames are enlarged by an integer factor. All frames are held in memory, so only the first 120 s of a video
are rendered.
"""

import sys
from pathlib import Path

from configs.cli import run
from configs.errors import UsageError
from configs.schema import RenderConfig


def main(config: RenderConfig) -> None:
    """Load the model, write the video."""
    from eval.heatmap_video import render_heatmap_video
    from model.hub import from_pretrained

    for key in ("checkpoint", "video", "out"):
        if not getattr(config, key):
            raise UsageError(f"{key}= is missing")
    out, video = Path(config.out), Path(config.video)
    if out.is_dir() or out.suffix.lower() != ".mp4":
        raise UsageError(
            f"out={config.out}{' is a folder' * out.is_dir()}: give the name of the mp4 to write, such as heatmap.mp4"
        )
    if out.resolve() == video.resolve():
        raise UsageError(f"out={config.out} is the input video, which would be overwritten; give another name")
    print(render_heatmap_video(from_pretrained(config.checkpoint), video, out))


if __name__ == "__main__":
    sys.exit(run(RenderConfig, __doc__, main))
