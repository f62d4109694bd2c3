"""Components whose uploads the server stores but never reads: only jobs decode them, in processes with limits."""

from pathlib import Path
from typing import Any

import gradio


class _StoredFile:
    """Passes the path of the upload to the event; addresses, which Gradio would download, are refused."""

    is_template = True  # the browser shows the component of the base class

    def preprocess(self, payload: Any) -> str | None:
        """The path of the upload, or None."""
        return payload.path if payload is not None else None

    def move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        """The path of a file in the temporary folder."""
        if "://" in str(url_or_file_path):
            raise gradio.Error("Addresses are refused: upload the file.", print_exception=False)
        return super().move_resource_to_block_cache(url_or_file_path)  # type: ignore[misc]

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        """As move_resource_to_block_cache."""
        return self.move_resource_to_block_cache(url_or_file_path)

from gradio.events import Dependency

class StoredVideo(gradio.Video):
    """An uploaded or recorded video."""

    is_template = True  # the browser shows it as its base class
    preprocess = _path_of_upload
    async_move_resource_to_block_cache = _refuse_addresses
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component


class StoredImage(gradio.Image):
    """An uploaded picture."""

    is_template = True
    preprocess = _path_of_upload
    async_move_resource_to_block_cache = _refuse_addresses
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component


class StoredAudio(gradio.Audio):
    """An uploaded or recorded sound."""

    is_template = True
    preprocess = _path_of_upload
    async_move_resource_to_block_cache = _refuse_addresses
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component


class ResultVideo(gradio.Video):
    """A video that a job has written for browsers: the server does not decode it to find that out."""

    is_template = True

    def postprocess(self, value: str | None) -> FileData | None:  # type: ignore[override]
        """The file as it is."""
        return None if value is None else FileData(path=value, orig_name=Path(value).name)
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component