"""Pictures of published sets, opened with suspicion: what is broken in one is told with its file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image


@contextmanager
def opened_picture(path: Path) -> Iterator[Image]:
    """A picture, open within the block. Raises UsageError, also from within the block: not a whole picture."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            yield picture
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(
            f"{path} is not a whole picture ({error}); repair it, or remove it: what is missing is left out and counted"
        ) from None
