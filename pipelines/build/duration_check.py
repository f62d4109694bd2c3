"""Compares the stated durations of a sample of media files with their rows before a build; only headers are read."""

import itertools
import sys
from collections.abc import Iterable
from pathlib import Path

from configs.schema import BuildConfig, DecodeConfig
from pipelines.build.decode_worker import DecodingProcess
from pipelines.manifest import Clip, Rejected, RejectedClip

_SAMPLED_FILES, _SAMPLED_ROWS = 64, 1000
_MAX_EXCESS = 1.5  # files that were cut by copying are longer than their segment by up to a GOP


def warn_of_durations(config: BuildConfig, rows: Iterable[Clip | Rejected]) -> None:
    """Print to stderr how many files are not cut to their segment, end before it, or are too long to be used whole.

    Args:
        config: the settings of the build.
        rows: rows in random order; the first ones are the sample.
    """
    problems: dict[str, list[str]] = {}
    files = 0
    process = DecodingProcess(Path(config.source.root), config.decode)
    try:
        for clip in itertools.islice(rows, _SAMPLED_ROWS):
            if files == _SAMPLED_FILES:
                break
            if isinstance(clip, Rejected):
                continue
            try:
                file_s, full_s = process.run(_durations_s, clip)
            except RejectedClip:
                continue
            files += 1
            if problem := _problem(clip, file_s, full_s, config):
                problems.setdefault(problem, []).append(f"{clip.media!r} ({file_s:.1f} s)")
    finally:
        process.stop()
    for problem, examples in problems.items():
        print(f"durations: {len(examples)} of {files} sampled files, first {examples[0]}, {problem}", file=sys.stderr)


def _problem(clip: Clip, file_s: float, full_s: float, config: BuildConfig) -> str:
    if file_s and file_s <= clip.start_s:
        return "end before their segment starts; if they are cut to their segments, set source.media_is_cut=true"
    if config.source.media_is_cut and clip.end_s and file_s > _MAX_EXCESS * clip.end_s:
        return (
            f"are over {_MAX_EXCESS} times as long as their segment, and only their start is used; "
            "if they are full videos, set source.media_is_cut=false"
        )
    if full_s:
        hint = "; source.window_s makes several clips of each" if config.source.kind == "folder" else ""
        return f"are cut to their first decode.max_duration_s={config.decode.max_duration_s:g} s{hint}"
    return ""


def _durations_s(clip: Clip, root: Path, settings: DecodeConfig) -> tuple[float, float]:
    """The duration that a file states, 0 if it states none, and that of a clip which is cut, else 0."""
    from pipelines.build.decode.container import full_duration_s, open_media, regular_file

    with open_media(regular_file(root, clip.media)) as container:
        file_s = (container.duration or 0) / 1e6
    return file_s, full_duration_s(file_s, clip, settings)
