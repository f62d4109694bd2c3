"""What is being built: the settings every shard of a data set shares, noted in build.json so that no folder ever holds a mixture."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import UsageError
from configs.load import diff_configs
from configs.schema import BuildConfig, DecodeConfig
from pipelines.build.row_table import RowTable
from pipelines.storage import Folder, read

FORMAT = 2
_NON_DATA_KEYS = (
    "out",
    "executor",
    "processes",
    "slice",
    "retry_rejected",
    "dry_run",
)  # settings that do not change the data set


@dataclass(frozen=True)
class BuildJob:
    """What the builder of a shard needs beside its rows; small, and the same in every process on every machine.

    Attributes:
        root: folder the rows' paths start from.
        out: folder of the shards.
        split: start of the shards' names.
        decode: how clips are decoded.
        recipe: hash of rows and settings; a shard of another recipe is not taken for one of this job.
        retry: whether clips that were rejected are tried again where their media have changed.
    """

    root: Path
    out: Folder
    split: str
    decode: DecodeConfig
    recipe: str
    retry: bool = False

    def name(self, number: int) -> str:
        return f"{self.split}-{number:06d}"


def prepare(config: BuildConfig, rows: RowTable, out: Folder) -> BuildJob:
    """Note in build.json what is built, or refuse a folder in which something else is.

    Raises:
        UsageError: another data set is there, or one begun with other versions of the decoders.
    """
    settings = {key: value for key, value in dataclasses.asdict(config).items() if key not in _NON_DATA_KEYS}
    del settings["source"]["root"]
    built = {"format": FORMAT, "rows_sha256": rows.sha256, "settings": settings}
    recipe = hashlib.sha256(json.dumps(built, sort_keys=True).encode()).hexdigest()
    text = json.dumps(built | {"versions": versions()}, indent=1, sort_keys=True)
    if _continues(out, built):
        with out.atomic_open("build.json") as file:
            file.write(text.encode())
    return BuildJob(
        Path(config.source.root).absolute(), out, config.source.split, config.decode, recipe, config.retry_rejected
    )


def versions() -> dict[str, str]:
    """Versions of what decides over bytes: another decoder can give another pixel, another encoder another file."""
    import av
    import simplejpeg
    import soundfile

    return {"av": av.__version__, "simplejpeg": simplejpeg.__version__, "libsndfile": soundfile.__libsndfile_version__}


def _continues(out: Folder, built: dict[str, Any]) -> bool:
    """Whether build.json is still to be written; False where it is there and says the same."""
    try:
        earlier = json.loads(read(out, "build.json"))
        differing = diff_configs(earlier["settings"], built["settings"])
        is_complete = "manifest.json" in out.sizes("manifest.json")
        other_versions = [] if is_complete else diff_configs(earlier.get("versions", {}), versions())
    except FileNotFoundError:
        if out.sizes("manifest.json"):
            raise UsageError(
                f"out={out} holds a manifest.json that this command did not write; give another folder"
            ) from None
        return True
    except (ValueError, KeyError, TypeError):
        raise UsageError(
            f"{out}/build.json is not what this command writes; give another folder, or remove {out} first"
        ) from None
    if earlier["format"] != built["format"]:
        differing.append(f"format: {earlier['format']} -> {built['format']}")
    if not differing and earlier["rows_sha256"] != built["rows_sha256"]:
        differing.append("the rows of the source's table")
    if differing:
        raise UsageError(
            f"out={out} holds a data set built otherwise ({'; '.join(differing)}); give another folder, or remove {out} first"
        )
    if other_versions:
        raise UsageError(
            f"out={out} was begun with other versions ({'; '.join(other_versions)}); install those again, or remove {out} first"
        )
    return False
