"""Components whose uploads the server stores but never reads: only jobs decode them, in processes with limits."""

from pathlib import Path
from typing import Any

import gradio
from gradio.blocks import Block
from gradio.components import Component
from gradio.data_classes import FileData


def _path_of_upload(_component: Component, payload: Any) -> str | None:
    """In place of `preprocess`, which opens pictures: the path of the upload, or None."""
    return None if payload is None else payload.path


async def _refuse_addresses(component: Block, url_or_file_path: str | Path | None) -> str | None:
    """In place of Gradio's method, which downloads the file of an address: the path of a file that was uploaded."""
    if "://" in str(url_or_file_path):
        raise gradio.Error("Addresses are refused: upload the file.", print_exception=False)
    return await Block.async_move_resource_to_block_cache(component, url_or_file_path)


class StoredVideo(gradio.Video):
    """An uploaded or recorded video."""

    is_template = True  # the browser shows it as its base class
    preprocess = _path_of_upload
    async_move_resource_to_block_cache = _refuse_addresses


class StoredImage(gradio.Image):
    """An uploaded picture."""

    is_template = True
    preprocess = _path_of_upload
    async_move_resource_to_block_cache = _refuse_addresses


class StoredAudio(gradio.Audio):
    """An uploaded or recorded sound."""

    is_template = True
    preprocess = _path_of_upload
    async_move_resource_to_block_cache = _refuse_addresses


class ResultVideo(gradio.Video):
    """A video that a job has written for browsers: the server does not decode it to find that out."""

    is_template = True

    def postprocess(self, value: str | None) -> FileData | None:  # type: ignore[override]
        """The file as it is."""
        return None if value is None else FileData(path=value, orig_name=Path(value).name)
