"""Adds the new rows of a source to a finished data set (`append=true`): new shards, numbered after the old ones.

Old shards are neither read again nor written. Rows whose id the data set holds, written or rejected, are skipped. The
source may be another one; split and decode settings must be those of the data set. The new shards are built beside the
old manifest.json, which stays valid until the last one is complete and the grown manifest replaces it. An interrupted
command is run again; if the new rows have changed meanwhile, its shards are built again. manifest.json records each
addition under `appended`. The fingerprint of the data set changes, and with it the order in which training reads it, so
checkpoints of runs on the old data set are not resumed: init_checkpoint= starts a run from their weights.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from configs.errors import UsageError
from configs.load import diff_configs
from configs.schema import BuildConfig
from pipelines.build.build_spec import FORMAT, BuildSpec, settings_of
from pipelines.manifest import Clip, Rejected
from pipelines.storage import Folder, read

_HOLDS = "run pipelines.verify on it, then complete it with the command that built it"


@dataclass
class KeptPart:
    """The shards of a data set that a build leaves as they are: the old ones, or all additions to them.

    Attributes:
        manifest: the root manifest.
        fingerprint: of the data set as it was read.
        recipe: the build hash of a damaged addition, to be completed; "": none is damaged.
        ids: of all their rows.
        skipped: number of rows of the source that they hold.
    """

    manifest: dict[str, Any]
    fingerprint: str
    recipe: str = ""
    ids: set[str] = field(default_factory=set)
    skipped: int = 0

    def new_rows(self, rows: Iterable[Clip | Rejected]) -> Iterator[Clip | Rejected]:
        """The rows whose ids are not in the data set."""
        for row in rows:
            if row.id in self.ids:
                self.skipped += 1
            else:
                yield row
        if self.skipped:
            print(f"skipped: {self.skipped} rows are in other shards of the data set already", file=sys.stderr)

    def with_addition(self, config: BuildConfig, spec: BuildSpec, shards: int, rows: int) -> dict[str, Any]:
        """The manifest of the finished part, with a record of the addition.

        Raises:
            UsageError: another command has changed the data set meanwhile, or the damaged addition that this one has to
                replace had other rows or settings.
        """
        if json.loads(read(spec.out, "manifest.json"))["fingerprint"] != self.fingerprint:
            raise UsageError(f"out={spec.out} was changed by another command meanwhile; run this one again")
        if self.recipe not in ("", spec.build_hash):
            raise UsageError(
                f"out={spec.out}: shards from {spec.name(0)} on are damaged, and were added from other rows or with "
                "other settings; run the command that added them"
            )
        addition = {
            "first_shard": spec.first_shard,
            "shards": shards,
            "rows": rows,
            "recipe": spec.build_hash,
            "settings": settings_of(config),
        }
        return self.manifest | {"appended": [*self.manifest.get("appended", ()), addition]}


def read_additions(out: Folder) -> KeptPart | None:
    """The additions to a data set, whose rows its first build does not have; None if there are none."""
    try:
        manifest = json.loads(read(out, "manifest.json"))
        added = manifest["shards"][manifest["appended"][0]["first_shard"] :]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return KeptPart(manifest, manifest["fingerprint"], ids=_all_ids(out, added))


def read_finished_part(out: Folder, config: BuildConfig) -> KeptPart:
    """Read a finished data set, to which rows are to be added.

    Args:
        out: its folder.
        config: settings for the new rows.

    Raises:
        UsageError: it is not finished, is damaged, was not written by pipelines.build, or has another split or other
            decode settings.
    """
    try:
        manifest = json.loads(read(out, "manifest.json"))
        shards, is_ours = manifest["shards"], "build.json" in out.sizes("build.json") and manifest["format"] == FORMAT
    except FileNotFoundError:
        raise UsageError(
            f"out={out} has no manifest.json: append=true adds to a finished data set; run without it first"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{out}/manifest.json is not a manifest of shards ({error}); {_HOLDS}") from None
    if not is_ours:
        raise UsageError(f"out={out} contains a manifest.json that this version of pipelines.build did not write")
    if manifest["split"] != config.source.split:
        raise UsageError(
            f"source.split={config.source.split} cannot be added to out={out}, of split {manifest['split']}"
        )
    if differing := diff_configs(manifest["settings"]["decode"], settings_of(config)["decode"]):
        raise UsageError(f"out={out} was built with other decode settings ({'; '.join(differing)}); set the same")
    part = KeptPart(manifest, manifest["fingerprint"])
    sizes, appended = out.sizes(), manifest.get("appended", [])
    for number, shard in enumerate(shards):
        ids = _ids(out, shard) if sizes.get(f"{shard['name']}.tar") == shard["size_bytes"] else None
        if ids is not None:
            part.ids |= ids
        elif appended and number >= appended[-1]["first_shard"]:
            return _without_last_addition(out, part)
        else:
            raise UsageError(f"out={out}: {shard['name']} is missing or damaged; {_HOLDS}")
    return part


def remove_unlisted_shards(out: Folder, manifest: dict[str, Any]) -> None:
    """Delete shards numbered after the last one: an interrupted addition of more rows left them."""
    for name in out.sizes(f"{manifest['split']}-*"):
        match = re.fullmatch(re.escape(manifest["split"]) + r"-(\d{6,})\.(tar|json)", name)
        if match and int(match[1]) >= len(manifest["shards"]):
            out.remove(name)


def _without_last_addition(out: Folder, part: KeptPart) -> KeptPart:
    """The data set before its last addition, which is damaged."""
    *appended, last = part.manifest["appended"]
    shards = part.manifest["shards"][: last["first_shard"]]
    manifest = part.manifest | {"shards": shards, "appended": appended}
    return KeptPart(manifest, part.fingerprint, last["recipe"], _all_ids(out, shards))


def _all_ids(out: Folder, shards: Sequence[dict[str, Any]]) -> set[str]:
    return set[str]().union(*(_ids(out, shard) or () for shard in shards))


def _ids(out: Folder, shard: dict[str, Any]) -> set[str] | None:
    """The ids of the rows of a shard; None if its index is damaged."""
    try:
        index = json.loads(read(out, f"{shard['name']}.json"))
        return {row["id"] for rows in (index["members"], index["rejected"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError):
        return None
