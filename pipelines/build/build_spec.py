"""The settings that all shards of a data set share, recorded in build.json so that a folder never holds a mixture."""

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
from pipelines.storage import Folder, read, write

FORMAT = 2
# Settings that do not change the data set.
_NON_DATA_KEYS = ("out", "executor", "processes", "slice", "retry_rejected", "append", "dry_run")
# Settings that were added later are part of the hash only where they differ from these values, which stand for what
# earlier versions did: their data sets keep their hash.
_LATER_SETTINGS = {
    "source.window_s": 0.0,
    "source.stride_s": 0.0,
    "source.labels_from_folders": False,
    "decode.channel": "first",
    "decode.audio": "waveform",
}


@dataclass(frozen=True)
class BuildSpec:
    """What is needed to build a shard besides its rows; small, picklable, and the same in every process.

    Attributes:
        root: folder that the paths in the rows are relative to.
        out: folder of the shards.
        split: prefix of the names of the shards.
        decode: how clips are decoded.
        build_hash: hash of rows and settings, stored as `recipe` in each index; a shard with another hash is rebuilt.
        retry: whether rejected clips are retried if their media have changed.
        first_shard: number of the first shard; the data set holds those before it already.
    """

    root: Path
    out: Folder
    split: str
    decode: DecodeConfig
    build_hash: str
    retry: bool = False
    first_shard: int = 0

    def name(self, number: int) -> str:
        """Name of a shard of this build, counted from 0, without `.tar`."""
        return f"{self.split}-{self.first_shard + number:06d}"


def settings_of(config: BuildConfig) -> dict[str, Any]:
    """The settings that determine the content of a data set."""
    settings = {key: value for key, value in dataclasses.asdict(config).items() if key not in _NON_DATA_KEYS}
    del settings["source"]["root"]
    for key, default in _LATER_SETTINGS.items():
        section, _, name = key.partition(".")
        if settings[section][name] == default:
            del settings[section][name]
    if config.decode.log_mel or config.decode.audio == "log_mel":
        settings["decode"]["mel_frames"] = "padded"  # earlier versions stored the frames of whole windows only
    return settings


def prepare(config: BuildConfig, rows: RowTable, out: Folder, first_shard: int = 0) -> BuildSpec:
    """Write build.json, or compare the settings with those of an earlier run.

    Args:
        config: settings of the build.
        rows: its rows.
        out: folder of the shards.
        first_shard: number of its first shard; above 0, the data set is finished, and build.json is left as it is.

    Raises:
        UsageError: the folder holds another data set, or an unfinished one begun with other versions of the decoders.
    """
    built = {"format": FORMAT, "rows_sha256": rows.sha256, "settings": settings_of(config)}
    build_hash = hashlib.sha256(json.dumps(built, sort_keys=True).encode()).hexdigest()
    if not first_shard and not _resumes(out, built):
        write(out, "build.json", json.dumps(built | {"versions": versions()}, indent=1, sort_keys=True).encode())
    root, split = Path(config.source.root).absolute(), config.source.split
    return BuildSpec(root, out, split, config.decode, build_hash, config.retry_rejected, first_shard)


def versions() -> dict[str, str]:
    """Versions of the libraries that determine the bytes: another decoder or encoder may give other ones."""
    import av
    import simplejpeg
    import soundfile

    return {"av": av.__version__, "simplejpeg": simplejpeg.__version__, "libsndfile": soundfile.__libsndfile_version__}


def _resumes(out: Folder, built: dict[str, Any]) -> bool:
    """Whether the folder holds a build.json with the same settings; False if it has none."""
    try:
        earlier = json.loads(read(out, "build.json"))
        differing = diff_configs(earlier["settings"], built["settings"])
        is_complete = "manifest.json" in out.sizes("manifest.json")
        other_versions = [] if is_complete else diff_configs(earlier.get("versions", {}), versions())
    except FileNotFoundError:
        if out.sizes("manifest.json"):
            raise UsageError(
                f"out={out} contains a manifest.json that pipelines.build did not write; give another folder"
            ) from None
        return False
    except (ValueError, KeyError, TypeError):
        raise UsageError(
            f"{out}/build.json was not written by pipelines.build; give another folder, or remove {out} first"
        ) from None
    if earlier["format"] != built["format"]:
        differing.append(f"format: {earlier['format']} -> {built['format']}")
    if not differing and earlier["rows_sha256"] != built["rows_sha256"]:
        differing.append("the rows of the source" + ("; append=true adds new ones" if is_complete else ""))
    if differing:
        raise UsageError(
            f"out={out} contains a data set with other settings ({'; '.join(differing)}); "
            f"give another folder, or remove {out} first"
        )
    if other_versions:
        raise UsageError(
            f"out={out} was begun with other versions ({'; '.join(other_versions)}); "
            f"install those again, or remove {out} first"
        )
    return True
