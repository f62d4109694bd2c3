"""The public Python API: load a DenseAV, localize sounds in images and videos, score and embed them.

    import denseav

    model = denseav.load("toy")
    result = model.localize("dog.jpg", "bark.wav")
    result.save("where.png")

See docs/using.md.
"""

import importlib.metadata
from pathlib import Path

from eval.inference.localization import Localization
from eval.inference.localizer import Localizer
from model.published import PACKAGED

__all__ = ["Localization", "Localizer", "__version__", "example_clips", "load"]

try:
    __version__ = importlib.metadata.version("denseav-trainer")
except importlib.metadata.PackageNotFoundError:  # a copy of the repository that is not installed
    __version__ = "0+not.installed"


load = Localizer.from_pretrained


def example_clips() -> list[Path]:
    """The example videos of this package (.mp4), which the `toy` model understands."""
    return sorted((PACKAGED / "examples").glob("*.mp4"))
