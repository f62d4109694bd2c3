"""Save a model with its card, and upload it to the Hugging Face Hub."""

import shutil
import tempfile
from pathlib import Path

from configs.errors import UsageError
from eval.report.model_card import find_metrics, model_card
from eval.results import METRICS_FILE
from model.hub import Pretrained, save_pretrained


def save_model(loaded: Pretrained, folder: Path, name: str, license: str) -> None:
    """Write config.json, model.safetensors, README.md and, if there is one of these weights, metrics.json.

    Args:
        loaded: the model and where it was loaded from.
        folder: created if it does not exist.
        name: what `denseav.load` gets in the example of the card.
        license: identifier of the Hugging Face Hub for the weights.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metrics = find_metrics(loaded.folder)
    card = model_card(*loaded, name, license)
    save_pretrained(loaded.model, loaded.config, folder)
    if metrics and metrics.resolve() != (folder / METRICS_FILE).resolve():
        shutil.copyfile(metrics, folder / METRICS_FILE)
    (folder / "README.md").write_text(card)


def push_model(
    loaded: Pretrained, repo_id: str, private: bool, token: str | bool | None, revision: str | None, license: str
) -> str:
    """Upload what `save_model` writes; arguments, result and errors as Localizer.push_to_hub."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        save_model(loaded, Path(folder), repo_id, license)
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=folder, revision=revision, commit_message="Upload model"
            )
        except Exception as error:  # errors of the hub and of its HTTP client have no common base class
            reason = " ".join(str(error).split())[:300]
            raise UsageError(f"repo_id={repo_id}: cannot be uploaded ({type(error).__name__}: {reason})") from None
    return str(commit.commit_url)
