"""Export the model of a run for `from_pretrained`: `python -m model.export checkpoint=runs/NAME out=DIR`

Takes the newest valid checkpoint of a run, a single checkpoint, or checkpoints/best; averaged weights if the run has
them.
"""

import contextlib
import sys
from pathlib import Path

from configs.cli import run
from configs.errors import UsageError
from configs.schema import ExportConfig


def main(config: ExportConfig) -> int:
    """Check the checkpoint, copy config and weights, and print the weights file that was exported."""
    import shutil

    from safetensors import SafetensorError, safe_open

    from configs.atomic_write import atomic_open
    from model.hub import resolve_checkpoint, select_weights_file

    if not config.checkpoint or not config.out:
        raise UsageError(
            f"checkpoint={config.checkpoint} out={config.out}: both are required, a run folder or "
            "checkpoint and the folder to write"
        )
    checkpoint, out = resolve_checkpoint(Path(config.checkpoint)), Path(config.out)
    if (out / "manifest.json").exists():
        raise UsageError(f"out={out} is a checkpoint: give another folder")
    if out.resolve() == checkpoint.resolve():
        raise UsageError(f"out={out} is the folder to export: give another folder")
    weights = select_weights_file(checkpoint)
    try:
        with safe_open(weights, "np"):
            pass
    except SafetensorError as error:
        raise UsageError(f"checkpoint={config.checkpoint}: {weights.name} is damaged ({error})") from None
    out.mkdir(parents=True, exist_ok=True)
    copies = ((checkpoint / "config.json", out / "config.json"), (weights, out / "model.safetensors"))
    try:
        with contextlib.ExitStack() as closing:  # both copies are complete before either replaces an earlier one
            for source, copy in copies:
                with source.open("rb") as file:
                    shutil.copyfileobj(file, closing.enter_context(atomic_open(copy)))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(out)) from None
    print(f"{weights} -> {out}")
    return 0


if __name__ == "__main__":
    sys.exit(run(ExportConfig, __doc__, main))
