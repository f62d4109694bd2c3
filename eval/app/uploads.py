"""Components whose uploads the server stores but never reads: only jobs decode them, in processes with limits.

The methods are replaced on the objects: of a subclass, Gradio writes a stub file beside its source, in our package.
"""

from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import gradio
from gradio.components import Component
from gradio.data_classes import FileData

C = TypeVar("C", bound=Component)


def stored(component: C) -> C:
    """An input component (Video, Audio, Image, File) that passes on the path of an upload.

    Without this, the server opens pictures, downloads the file of an address that a client sends in place of an upload,
    and takes any path of its own disk: Gradio checks paths only for pages that `launch` started.
    """
    component.preprocess = _path_of_upload
    component.async_move_resource_to_block_cache = partial(
        _only_uploads, component.async_move_resource_to_block_cache, Path(component.GRADIO_CACHE)
    )
    return component


def result_video(component: gradio.Video) -> gradio.Video:
    """An output component for videos that jobs wrote for browsers: the server does not decode them to check that."""
    component.postprocess = _file_data
    return component


def _path_of_upload(payload: Any) -> str | None:
    return None if payload is None else payload.path


async def _only_uploads(move: Any, folder: Path, url_or_file_path: str | Path | None) -> str | None:
    if not Path(str(url_or_file_path)).resolve().is_relative_to(folder.resolve()):
        raise gradio.Error("Only uploads are accepted.", print_exception=False)
    return await move(url_or_file_path)


def _file_data(value: str | None) -> FileData | None:
    return None if value is None else FileData(path=value, orig_name=Path(value).name)
