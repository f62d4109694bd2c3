"""The model card: it is made from the run's settings and metrics, and states no results of other weights."""

import json

import pytest
import yaml
from tiny_training import save, tiny_config, tiny_state

from configs.load import to_yaml
from eval.inference.localizer import Localizer
from eval.provenance import hash_checkpoint
from eval.report.model_card import find_metrics

METRICS = {
    "metrics": {"ade20k_speech/basic/map": 0.61, "shuffled_prompts/ade20k_speech/basic/map": 0.19},
    "intervals": {"ade20k_speech/basic/map": [0.55, 0.66]},
    "items": {"ade20k_speech/items": 24},
    "requirements": [],
    "per_class": {},
    "about": {"date": "2026-11-30T00:00:00+00:00"},
}


@pytest.fixture
def run(tmp_path):
    """A run of one checkpoint with its settings."""
    config = tiny_config("steps=400")
    run = tmp_path / "runs/demo"
    save(run / "checkpoints", 400, tiny_state(config), config)
    (run / "config.yaml").write_text(to_yaml(config))
    return run


def _measure(run, checkpoint=None):
    step = next((run / "checkpoints").iterdir())
    about = METRICS["about"] | {"checkpoint": checkpoint or hash_checkpoint(step, run / "history.jsonl")}
    (run / "metrics.json").write_text(json.dumps(METRICS | {"about": about}))


def test_the_card_shows_use_data_results_with_baselines_limits_and_license(run, tmp_path):
    _measure(run)
    out = Localizer.from_pretrained(run, "cpu").save_pretrained(tmp_path / "out", name="ana/tiny", license="cc-by-4.0")
    card = (out / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["license"] == "cc-by-4.0"
    (result,) = metadata["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "ade20k_speech/basic/map", "name": "mAP, basic", "value": 0.61}]
    assert 'model = denseav.load("ana/tiny")' in body and 'result.save("where.mp4", view="heatmap")' in body
    assert "| mAP, basic | **0.610** | 0.550 to 0.660 | 0.190 |" in body and "shuffled prompts" in body
    assert "Trained for 400 steps on:" in body and "| image encoder | `tiny` |" in body
    assert "## Limits" in body and "cc-by-4.0" in body.partition("## License")[2]
    assert "\n\n\n" not in body and not [line for line in body.splitlines() if line != line.rstrip()]
    assert json.loads((out / "metrics.json").read_text())["metrics"] == METRICS["metrics"]


def test_a_saved_model_keeps_its_results_when_it_is_saved_again(run, tmp_path):
    _measure(run)
    first = Localizer.from_pretrained(run, "cpu").save_pretrained(tmp_path / "first")
    again = Localizer.from_pretrained(first, "cpu")
    assert again.save_pretrained(tmp_path / "first") == first
    assert "**0.610**" in (again.save_pretrained(tmp_path / "second") / "README.md").read_text()


def test_results_of_other_weights_are_left_out(run, tmp_path):
    _measure(run, checkpoint="another")
    step = next((run / "checkpoints").iterdir())
    assert find_metrics(step) is None
    card = (Localizer.from_pretrained(run, "cpu").save_pretrained(tmp_path / "out") / "README.md").read_text()
    assert "Not measured: there is no `metrics.json` of these weights" in card and "0.610" not in card
    assert not (tmp_path / "out/metrics.json").exists()


def test_a_card_without_a_run_says_so(run, tmp_path):
    first = Localizer.from_pretrained(run, "cpu").save_pretrained(tmp_path / "first")
    card = (Localizer.from_pretrained(first, "cpu").save_pretrained(tmp_path / "second") / "README.md").read_text()
    assert "The training data are not stated in the folder that this model was saved from." in card
