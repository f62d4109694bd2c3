"""The model of a run as a folder that `from_pretrained` reads: `python -m model.export checkpoint=runs/NAME out=DIR`

Takes the newest whole checkpoint of a run, a step folder, or checkpoints/best; averaged weights where the run has them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from configs.cli import run
from configs.errors import UsageError
from configs.schema import ExportConfig


def main(config: ExportConfig) -> int:
    """Check the checkpoint, copy what is needed, and say what was written."""
    import shutil

    from model.hub import resolve_checkpoint, select_weights_file

    if not config.checkpoint or not config.out:
        raise UsageError(
            f"checkpoint={config.checkpoint} out={config.out}: both are needed, a run or step folder and the folder to write"
        )
    found, out = resolve_checkpoint(Path(config.checkpoint)), Path(config.out)
    if (out / "manifest.json").exists():
        raise UsageError(f"out={out} is a checkpoint: give another folder")
    if out.resolve() == found.resolve():
        raise UsageError(f"out={out} is what is to be exported: give another folder")
    out.mkdir(parents=True, exist_ok=True)
    weights = select_weights_file(found)
    copies = [
        (source, out / f".{name}.tmp", out / name)
        for source, name in ((found / "config.json", "config.json"), (weights, "model.safetensors"))
    ]
    try:  # both are there before either takes the place of an earlier one
        for source, temporary, _ in copies:
            shutil.copyfile(source, temporary)
        for _, temporary, copy in copies:
            temporary.replace(copy)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(out)) from None
    finally:
        for _, temporary, _ in copies:
            temporary.unlink(missing_ok=True)
    print(f"{weights} -> {out}")
    return 0


if __name__ == "__main__":
    sys.exit(run(ExportConfig, __doc__, main))
