"""Show the clips of a shard or data set: `python -m pipelines.inspect SHARD|DIR [key=ID] [html=page.html]`

Prints a table with a sample of the clips, or everything about one clip. SHARD is any webdataset tar, with or without an
index; DIR is a data set; both may be remote (any fsspec URL). html= writes a self-contained page with the frames and
their times, waveform, audio player and JSON of each clip. Exit code 1 if anything could not be read.
Limits: hashes are not checked (see `pipelines.verify`); a shard without an index is read from front to back; only jpg,
png, flac, wav, npy and json members are decoded.
"""

import heapq
import itertools
import operator
import sys
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from configs.atomic_write import atomic_open
from configs.cli import run
from configs.errors import UsageError
from configs.schema import InspectConfig
from pipelines.inspect.clip_preview import (
    ClipPreview,
    Members,
    evenly_spaced,
    member_lines,
    read_preview,
    suffix,
    summary_fields,
)
from pipelines.inspect.page import write_page
from pipelines.shard_format import (
    CorruptDataError,
    key_and_extension,
    printable,
    read_index,
    read_manifest,
    tar_members,
)
from pipelines.storage import Folder, open_folder

_COLUMN_WIDTHS = {
    "key": 26,
    "source": 12,
    "segment": 19,
    "duration": 8,
    "frames": 18,
    "audio": 29,
    "labels": 24,
    "text": 32,
}


def main(config: InspectConfig, address: str) -> int:
    """Print the table or the clip, and write the page if html= is set."""
    from tqdm import tqdm

    page = Path(config.html)
    if config.html and (page.suffix != ".html" or page.is_dir() or not page.parent.is_dir()):
        raise UsageError(f"html={config.html}: must be a file that ends with .html, in an existing folder")
    folder, summary, problems, clips = _select(config, address)
    if not clips:
        problems.append("it contains no clips")
    header = [] if config.key or not clips else [_row({name: name for name in _COLUMN_WIDTHS})]
    print("\n".join([*map(printable, [summary, *problems]), *header]))

    def previews() -> Iterator[ClipPreview]:
        for shard, key, members in tqdm(clips, unit="clip", desc="inspect", delay=1, disable=None):
            preview = read_preview(folder, shard, key, members)
            lines = _all_lines(preview) if config.key else [_row(summary_fields(preview))]
            lines += [printable(f"  {key}: {problem}") for problem in preview.problems]
            tqdm.write("\n".join(lines))
            problems.extend(preview.problems)
            yield preview

    if config.html:
        with atomic_open(page) as file:
            write_page(file, summary, tuple(problems), previews())
        print(f"wrote {page} ({page.stat().st_size / 1e6:.1f} MB)")
    else:
        sum(1 for _ in previews())
    return 1 if problems else 0


def _select(config: InspectConfig, address: str) -> tuple[Folder, str, list[str], list[tuple[str, str, Members]]]:
    """Open the shard or data set, and choose the clip of key= or a sample spread evenly over all shards.

    Returns:
        The folder, a line with its totals, what is wrong with it, and the chosen clips as (shard, key, members).
    """
    parent, _, name = address.rpartition("/")
    is_shard = name.endswith(".tar")
    folder = open_folder((parent or ("/" if address.startswith("/") else ".")) if is_shard else address)
    sizes = {} if Path(str(folder)).is_file() else folder.sizes()
    tars = [name] if is_shard else sorted(tar for tar in sizes if tar.endswith(".tar"))
    if not tars or tars[0] not in sizes:
        raise UsageError(f"{address}: no such shard (a file that ends with .tar) or folder of shards")
    manifest, manifest_problem = ({}, "") if is_shard else read_manifest(folder)
    counts = {shard["name"]: shard["clips"] for shard in manifest["shards"]} if manifest else {}
    if manifest:
        totals = "{rows} rows = {written} clips + {rejected} rejected".format_map(manifest)
        summary = f"{folder}: {totals}, in {len(counts)} shards"
    else:
        counts = {tars[0].removesuffix(".tar"): config.clips}
        summary = f"{folder}/{tars[0]}: {sizes[tars[0]] / 1e6:.1f} MB"
    problems = [f"{manifest_problem}; showing the first of {len(tars)} shards"] if manifest_problem else []
    names, ends = list(counts), list(itertools.accumulate(counts.values()))
    positions = evenly_spaced(range(min(sum(counts.values()), sys.maxsize)), config.clips)
    samples = Counter(names[bisect_right(ends, position)] for position in positions)
    chosen, similar = [], list[str]()
    for shard in counts if config.key else samples:
        clips, shard_problems = _list_clips(folder, shard)
        problems += shard_problems
        if not manifest:
            kinds = Counter(suffix(extension) for members in clips.values() for extension in members).most_common(12)
            summary += f", {len(clips)} clips; members: {', '.join(f'{count} {kind}' for kind, count in kinds)}"
        if config.key in clips:
            return folder, summary, problems, [(shard, config.key, clips[config.key])]
        if config.key:
            similar = heapq.nlargest(3, [*similar, *clips], key=lambda k: sum(map(operator.eq, k, config.key)))
        chosen += [(shard, key, clips[key]) for key in evenly_spaced(list(clips), samples[shard])]
    if config.key:
        hint = f"similar keys: {', '.join(similar)}" if similar else "it contains no clips"
        raise UsageError(printable(f"key={config.key} is not in {address}; {hint}"))
    return folder, summary, problems, chosen


def _list_clips(folder: Folder, shard: str) -> tuple[dict[str, Members], list[str]]:
    """The members of each clip of a shard, from its index or else from the tar headers; and what is wrong with it."""
    clips: defaultdict[str, Members] = defaultdict(dict)
    problems, name, end, skipped = [], f"{shard}.tar", 0, 0
    if (size_bytes := folder.sizes().get(name, -1)) < 0:
        return {}, [f"{name} is missing"]
    try:
        entry = read_index(folder, shard).entry
        if size_bytes != entry.get("size_bytes"):
            problems.append(f"{name} has {size_bytes} bytes, but {shard}.json expects {entry.get('size_bytes')}")
        return {clip["id"]: clip["files"] for clip in entry["members"]}, problems
    except (FileNotFoundError, CorruptDataError) as error:
        problems += [f"{shard}.json cannot be read: {error}"] if isinstance(error, CorruptDataError) else []
    try:
        with folder.open(name) as file:
            for member in tar_members(file):
                end = member.offset_data + -(-member.size // 512) * 512
                name_parts = key_and_extension(member.name) if member.isreg() else None
                skipped += not name_parts
                if name_parts:
                    clips[name_parts[0]][name_parts[1]] = (member.offset_data, member.size)
        with folder.open(name) as file:
            file.seek(end)
            if file.read(512) != bytes(512):  # a tar ends with blocks of zeros
                problems.append(f"{name} is truncated or corrupt at byte {end} of {size_bytes}")
    except CorruptDataError as error:
        problems.append(f"{name} is not a tar, or is truncated at byte {size_bytes}: {error}")
    if skipped:
        problems.append(f"{name}: skipped {skipped} members that are not files named KEY.EXTENSION")
    return clips, problems


def _row(fields: dict[str, str]) -> str:
    """One line of the table. Keys are never truncated, so that they can be copied to key=."""
    cells = ((printable(fields[name]), width, name) for name, width in _COLUMN_WIDTHS.items())
    return " ".join(
        f"{cell if len(cell) <= width or name == 'key' else cell[: width - 3] + '...':<{width}}"
        for cell, width, name in cells
    ).rstrip()


def _all_lines(preview: ClipPreview) -> list[str]:
    fields = {**summary_fields(preview), "shard": preview.shard}
    lines = [f"{name:<14}{value}" for name, value in fields.items() if value]
    return [printable(line) for line in [*lines, *member_lines(preview), *preview.json_text.splitlines()]]


if __name__ == "__main__":
    sys.exit(run(InspectConfig, __doc__, main, positional=("shard_or_dir",)))
