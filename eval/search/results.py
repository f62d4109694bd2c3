"""Results of a query as a table and as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.atomic_write import atomic_open
from configs.schema import SearchConfig
from eval.search.query import Query
from eval.search.searcher import Match


def describe_query(query: Query) -> str:
    """The kind of a query and what it finds, in words."""
    if query.audio is not None and query.image is not None:
        return "a video: its sound finds pictures, its picture finds sounds; the score is the mean of both"
    if query.kind == "video":
        return "a video without sound: its picture finds sounds"
    return "a sound, which finds pictures" if query.audio is not None else "a picture, which finds sounds"


def to_json(query: Query, matches: Sequence[Match], config: SearchConfig) -> str:
    """The results as a JSON text."""
    content = {
        "query": str(query.path),
        "kind": query.kind,
        "directions": [
            *(["audio_to_image"] if query.audio is not None else []),
            *(["image_to_audio"] if query.image is not None else []),
        ],
        "index": config.index,
        "where": config.where,
        "rerank": config.rerank,
        "results": [_as_dict(rank, match) for rank, match in enumerate(matches, start=1)],
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def _as_dict(rank: int, match: Match) -> dict[str, Any]:
    clip = match.clip
    return {
        "rank": rank,
        "id": clip.id,
        "score": round(match.score, 6),
        "first_stage_rank": match.first_stage_rank,
        "found_by": list(match.found_by),
        "labels": list(clip.labels),
        "text": clip.text,
        "source": clip.source,
        "start_s": clip.start_s,
        "end_s": clip.end_s,
        "media": clip.media,
    }


def format_table(query: Query, matches: Sequence[Match]) -> str:
    """The results as lines of text."""
    lines = [f"{query.path}: {describe_query(query)}", ""]
    width = max(len(match.clip.id) for match in matches)
    lines.append(f"{'rank':>4} {'score':>9} {'first':>6}  {'id':<{width}}  {'time (s)':>13}  labels or text, source")
    for rank, match in enumerate(matches, start=1):
        clip = match.clip
        about = "; ".join(clip.labels) or clip.text
        lines.append(
            f"{rank:>4} {match.score:>9.3f} {match.first_stage_rank:>6}  {clip.id:<{width}}  "
            f"{f'{clip.start_s:.1f}-{clip.end_s:.1f}':>13}  {about}{', ' * bool(about)}{clip.source}"
        )
    return "\n".join(lines)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; folders are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_open(path) as file:
        file.write(text.encode("utf-8", "replace"))
