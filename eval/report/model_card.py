"""The model card of a saved model: use, data, results with their baselines, limits, license.

Results come from metrics.json, the training data from config.yaml of the run, if the model was loaded from one.
"""

import json
from pathlib import Path
from typing import Any

from configs.load import load_stored
from configs.schema import ModelConfig, TrainConfig
from eval.provenance import hash_checkpoint
from eval.report.content import sections
from eval.report.templates import load_template
from eval.results import METRICS_FILE, PREFIXES, read_metrics, results_from_json
from model.denseav import DenseAV


def model_card(model: DenseAV, config: ModelConfig, folder: Path, name: str, license: str) -> str:
    """The text of README.md, with the metadata of the Hugging Face Hub in front.

    Args:
        model: the model.
        config: the settings that build it.
        folder: it was loaded from; its results and its data are looked up there.
        name: what `denseav.load` gets in the example.
        license: identifier of the Hugging Face Hub, such as `mit`.
    """
    metrics_file = find_metrics(folder)
    results = results_from_json(read_metrics(metrics_file)) if metrics_file else None
    return load_template("model_card.md.j2", autoescape=False).render(
        name=name,
        license=license,
        config=config,
        inputs=model.inputs,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        stride=model.image_encoder.stride,
        sections=sections(results) if results else [],
        prefixes=PREFIXES,
        date=results.about.get("date", "")[:10] if results else "",
        **_training_data(folder),
    )


def find_metrics(folder: Path) -> Path | None:
    """metrics.json of a model: in its folder or, for a checkpoint, in its run; None if it is of other weights."""
    if (folder / METRICS_FILE).is_file():
        return folder / METRICS_FILE
    run = _run_of(folder)
    if run is None or not (run / METRICS_FILE).is_file():
        return None
    measured = read_metrics(run)["about"].get("checkpoint")
    return run / METRICS_FILE if measured in (None, hash_checkpoint(folder, run / "history.jsonl")) else None


def _training_data(folder: Path) -> dict[str, Any]:
    """Sources of the run and steps of the checkpoint; none if the folder is not a checkpoint of a run."""
    run = _run_of(folder)
    try:
        config = load_stored(TrainConfig, (run / "config.yaml").read_text(), str(run)) if run else TrainConfig()
        steps = json.loads((folder / "state.json").read_bytes())["step"] if run else 0
        return {"sources": config.stream.sources, "steps": steps}
    except (OSError, ValueError, KeyError, TypeError):
        return {"sources": [], "steps": 0}


def _run_of(folder: Path) -> Path | None:
    return folder.absolute().parent.parent if folder.absolute().parent.name == "checkpoints" else None
