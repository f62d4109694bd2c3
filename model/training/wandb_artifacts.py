"""W&B artifacts of a run: its data sets and its checkpoint, by fingerprint.

An artifact of a data set holds its manifest (SHA-256 of each shard), not the shards. The artifact of a checkpoint holds
the SHA-256 of each of its files, and the model itself if `checkpoint.upload` asks for it. W&B sees other content as a
new version. Data sets are logged, not "used": W&B has no use of artifacts offline.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.schema import StreamSourceConfig, TrainConfig
from model.training.checkpoint_folder import BEST, MANIFEST, step_folders, step_of

if TYPE_CHECKING:
    import wandb

# Another name than in the folder, where from_pretrained would look for all files that it lists.
CHECKPOINT_MANIFEST = "checkpoint_manifest.json"
_MAX_NAME_LENGTH = 128


def log_data_sets(run: "wandb.Run", sources: Sequence[StreamSourceConfig], fingerprint: Mapping[str, Any]) -> None:
    """Log an artifact of type `dataset` for each source: fingerprint.json and, if it is local, the manifest.

    Args:
        run: of W&B.
        sources: of the stream, in the order of `fingerprint["sources"]`.
        fingerprint: of the stream (pipelines.stream.loader.Stream).
    """
    import wandb

    for source, (name, about) in zip(sources, fingerprint["sources"].items(), strict=True):
        metadata = {"fingerprint": about["data_set"], "shards": source.shards}
        artifact = wandb.Artifact(_valid_name(name), type="dataset", metadata=metadata)
        with artifact.new_file("fingerprint.json") as file:  # equal manifests may have other selections of clips
            json.dump({"fingerprint": about["data_set"]}, file)
        for number, folder in enumerate(source.shards):
            manifest = Path(folder) / MANIFEST
            if manifest.is_file():
                artifact.add_file(str(manifest), name=f"{number}/{MANIFEST}" if number else MANIFEST)
        run.log_artifact(artifact)


def log_checkpoint(run: "wandb.Run", config: TrainConfig, root: Path) -> None:
    """Log an artifact of type `model` for the checkpoint of a finished run; nothing without its last checkpoint.

    With `checkpoint.upload` it is a folder for `model.hub.from_pretrained`, with the averaged weights if there are any.

    Args:
        run: of W&B.
        config: of the run.
        root: folder of the checkpoints.
    """
    import wandb

    newest = next(iter(step_folders(root)), None)
    if newest is None or step_of(newest) < config.steps:
        return
    folder = (root / BEST).resolve() if config.checkpoint.upload == "best" and (root / BEST).exists() else newest
    state = json.loads((folder / "state.json").read_text())
    metadata = {key: state[key] for key in ("step", "stream", "metrics", "versions")}
    metadata["sha256"] = json.loads((folder / MANIFEST).read_text())
    artifact = wandb.Artifact(_valid_name(config.name), type="model", metadata=metadata)
    artifact.add_file(str(folder / MANIFEST), name=CHECKPOINT_MANIFEST)
    if config.checkpoint.upload != "none":
        weights = folder / "ema.safetensors"
        artifact.add_file(str(folder / "config.json"))
        artifact.add_file(str(weights if weights.is_file() else folder / "model.safetensors"), name="model.safetensors")
    run.log_artifact(artifact, aliases=["latest", f"step_{step_of(folder)}"])


def _valid_name(name: str) -> str:
    """A name that W&B accepts: letters, digits, `_`, `-` and `.`."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:_MAX_NAME_LENGTH]
