"""What is in a shard? `python -m pipelines.inspect SHARD|DIR [key=ID] [html=page.html]` shows a table of clips, or everything of one clip.

SHARD is any webdataset tar, with an index beside it or without; DIR a data set; both may be any address of fsspec. With html=, one page that needs
nothing else shows the frames with their times, the sound, its waveform and the JSON of each clip. Exit code 1 when something could not be read.
Limits: hashes are left to `pipelines.verify`; without an index a shard is read from front to back; what is looked into, clip_preview.py says.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections import Counter
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
    summary_fields,
)
from pipelines.inspect.page import page_of
from pipelines.shard_format import CorruptDataError, printable, read_index, read_manifest, tar_members
from pipelines.storage import Folder, open_folder

_NAME = re.compile(
    r"((?:.*/)?[^.]+)\.([^/]*)", re.DOTALL
)  # as webdataset takes a name apart: at the first dot of its last part
_COLUMNS = (
    ("key", 26),
    ("source", 12),
    ("segment s", 17),
    ("s", 6),
    ("frames", 18),
    ("sound", 29),
    ("labels", 24),
    ("text", 32),
)


def main(config: InspectConfig, address: str) -> int:
    """Print what is there, and write the page if one is asked for."""
    from tqdm import tqdm

    page = Path(config.html)
    if config.html and (page.suffix != ".html" or page.is_dir() or not page.parent.is_dir()):
        raise UsageError(f"html={config.html}: give a file that ends with .html in a folder that is there")
    folder, about, problems, chosen = _choose(config, address)
    problems += [] if chosen else ["there is no clip in it"]
    heading = [] if config.key or not chosen else [" ".join(f"{name:<{width}}" for name, width in _COLUMNS).rstrip()]
    print("\n".join([*map(printable, [about, *problems]), *heading]))

    def looks() -> Iterator[ClipPreview]:
        for shard, key, members in tqdm(chosen, unit="clip", desc="inspect", delay=1, disable=None):
            seen = read_preview(folder, shard, key, members)
            tqdm.write(
                "\n".join(
                    [
                        _everything(seen) if config.key else _row(seen),
                        *(printable(f"  {key}: {problem}") for problem in seen.problems),
                    ]
                )
            )
            problems.extend(seen.problems)
            yield seen

    if config.html:
        with atomic_open(page) as file:
            for part in page_of(about, tuple(problems), looks()):
                file.write(part.encode(errors="replace"))
        print(f"{page} is written, {page.stat().st_size / 1e6:.1f} MB")
    else:
        sum(1 for _ in looks())
    return 1 if problems else 0


def _choose(config: InspectConfig, address: str) -> tuple[Folder, str, list[str], list[tuple[str, str, Members]]]:
    """The folder, what is said of it, what is wrong with it, and the clips to look at as (shard, key, members)."""
    head, _, name = address.rpartition("/")
    is_shard = name.endswith(".tar")
    folder = open_folder((head or ("/" if address.startswith("/") else ".")) if is_shard else address)
    sizes = {} if Path(str(folder)).is_file() else folder.sizes()
    tars = [name] if is_shard else sorted(tar for tar in sizes if tar.endswith(".tar"))
    if not tars or tars[0] not in sizes:
        raise UsageError(f"{address}: no such shard (a file that ends with .tar) or folder of shards")
    manifest, wrong = ({}, "") if is_shard else read_manifest(folder)
    if manifest:
        counts = {shard["name"]: shard["clips"] for shard in manifest["shards"]}
        about = f"{folder}: {manifest['rows']} rows = {manifest['written']} clips + {manifest['rejected']} rejected, in {len(counts)} shards"
    else:
        counts = {tars[0].removesuffix(".tar"): config.clips}
        about = f"{folder}/{tars[0]}: {sizes[tars[0]] / 1e6:.1f} MB"
    problems, chosen, near = [f"{wrong}; this is the first of {len(tars)} tars"] if wrong else [], [], []
    ends = dict(zip(counts, itertools.accumulate(counts.values()), strict=True))
    positions = evenly_spaced(range(min(sum(counts.values()), sys.maxsize)), config.clips)
    wanted = {
        shard: number
        for shard, end in ends.items()
        if (number := sum(end - counts[shard] <= p < end for p in positions))
    }
    for shard in counts if config.key else wanted:
        clips, found = _clips(folder, shard)
        problems += found
        if not manifest:
            kinds = Counter(extension.rpartition(".")[2] for members in clips.values() for extension in members)
            about += f", {len(clips)} clips; members: {', '.join(f'{count} {kind}' for kind, count in kinds.most_common(12))}"
        if config.key in clips:
            return folder, about, problems, [(shard, config.key, clips[config.key])]
        if config.key:
            near = sorted([*near, *clips], key=lambda key: -sum(a == b for a, b in zip(key, config.key, strict=False)))[
                :3
            ]
        chosen += [(shard, key, clips[key]) for key in evenly_spaced(list(clips), wanted.get(shard, 0))]
    if config.key:
        raise UsageError(
            printable(
                f"key={config.key} is not in {address}"
                + (f"; near it there are {', '.join(near)}" if near else ", which holds no clip")
            )
        )
    return folder, about, problems, chosen


def _clips(folder: Folder, shard: str) -> tuple[dict[str, Members], list[str]]:
    """The members of each clip of a shard, from its index, or else from the tar's own headers; and what is wrong."""
    clips, problems, name, end, others = {}, [], f"{shard}.tar", 0, 0
    if (size_bytes := folder.sizes().get(name, -1)) < 0:
        return {}, [f"{name} is missing"]
    try:
        entry = read_index(folder, shard).entry
        if size_bytes != entry.get("size_bytes"):
            problems.append(f"{name} has {size_bytes} bytes, {shard}.json says {entry.get('size_bytes')}")
        return {clip["id"]: clip["files"] for clip in entry["members"]}, problems
    except (FileNotFoundError, CorruptDataError) as error:
        problems += [f"{shard}.json cannot be read: {error}"] if isinstance(error, CorruptDataError) else []
    try:
        with folder.open(name) as file:
            for member in tar_members(file):
                end = member.offset_data + -(-member.size // 512) * 512
                match = _NAME.fullmatch(member.name) if member.isreg() else None
                others += not match
                if match:
                    clips.setdefault(match[1], {})[match[2]] = (member.offset_data, member.size)
        with folder.open(name) as file:
            file.seek(end)
            if file.read(512) != bytes(512):  # a tar ends with blocks of zeros
                problems.append(f"{name} is cut off or broken at byte {end} of {size_bytes}")
    except CorruptDataError as error:
        problems.append(f"{name} is no tar, or cut off at byte {size_bytes}: {error}")
    return clips, [
        *problems,
        f"{name}: {others} members are no files with a key and an extension, and are left alone",
    ] if others else problems


def _row(seen: ClipPreview) -> str:
    said = summary_fields(seen)
    cells = ((printable(said[name]), width, name) for name, width in _COLUMNS)  # the key whole, for key=
    return " ".join(
        f"{cell if len(cell) <= width or name == 'key' else cell[: width - 3] + '...':<{width}}"
        for cell, width, name in cells
    ).rstrip()


def _everything(seen: ClipPreview) -> str:
    said = [f"{name:<14}{value}" for name, value in {**summary_fields(seen), "shard": seen.shard}.items() if value]
    return "\n".join(printable(line) for line in [*said, *member_lines(seen), *seen.json.splitlines()])


if __name__ == "__main__":
    sys.exit(run(InspectConfig, __doc__, main, positional=("shard_or_dir",)))
