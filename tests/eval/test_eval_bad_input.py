"""Bad input to `eval.run`: one error line, or items left out and counted in metrics.json and both reports."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_evaluation import write_evaluation
from tiny_localization import data_settings, write_localization_sets
from tiny_prompted import write_prompted
from tiny_training import tiny_config, tiny_model

from configs.cli import run
from configs.schema import EvalConfig
from eval.run import main
from model.hub import save_pretrained


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    write_evaluation(root, video=False)
    write_localization_sets(root / "twins")
    config = tiny_config()
    torch.manual_seed(0)
    (root / "model").mkdir()
    save_pretrained(tiny_model(config), config.model, root / "model")
    return root


@pytest.fixture
def root(untouched, tmp_path):
    """A copy for each test to damage."""
    return shutil.copytree(untouched, tmp_path / "world")


def _evaluate(root, benchmark, checkpoint="model"):
    """The exit code and the content of metrics.json."""
    data = {
        "data.prompted_ade20k.root": root / "prompted",
        "data.places_audio.root": root / "places",
        "data.audioset.root": root / "audioset",
        **data_settings(root / "twins"),
    }
    settings = [
        f"checkpoint={root / checkpoint}",
        f"out={root / 'out'}",
        f"benchmarks=[{benchmark}]",
        "baselines=[chance]",
        "batch_size=4",
        "gallery_size=9",
    ]
    code = run(EvalConfig, "doc", main, [*settings, *(f"{key}={value}" for key, value in data.items())])
    written = root / "out/metrics.json"
    return code, json.loads(written.read_text()) if written.is_file() else None


def _one_line(capsys, *words):
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(error) == 1 and all(word in error[0] for word in words), error


# ---------------------------------------------------------------------------------------------- counted


def test_missing_files_and_duplicates_of_localization_are_counted_in_all_files(root):
    frames, table = root / "twins/vggss/frames", root / "twins/vggss/metadata/vggss.json"
    rows = json.loads(table.read_text())
    pictures = sorted(frames.iterdir())
    pictures[0].unlink()
    (root / "twins/vggss/audio" / f"{pictures[1].stem}.wav").unlink()
    table.write_text(json.dumps([*rows, next(row for row in rows if row["file"] == pictures[5].stem)]))
    code, written = _evaluate(root, "vggss")
    assert code == 0
    expected = {"items": 22, "left_out_no_image": 1, "left_out_no_audio": 1, "left_out_duplicate": 1}
    assert {key: written["items"][f"vggss/{key}"] for key in expected} == expected
    for name in ("report.md", "report.html"):
        text = (root / "out" / name).read_text()
        assert "22 items" in text and all(why in text for why in ("1 no image", "1 no audio", "1 duplicate")), name


def test_image_without_a_region_is_kept_and_counted(root):
    table = root / "twins/vggss/metadata/vggss.json"
    rows = json.loads(table.read_text())
    rows[0]["bbox"] = []
    table.write_text(json.dumps(rows))
    _, written = _evaluate(root, "vggss")
    assert written["items"]["vggss/items"] == 24 and written["items"]["vggss/without_a_region"] == 1
    assert "1 without a region" in (root / "out/report.md").read_text()


def test_missing_prompt_files_and_empty_classes_are_counted(root):
    shutil.rmtree(root / "prompted")
    rows = ['p1.png,7,gone.wav,"[0, 1]",v0.wav', 'p0.png,9,s0.wav,"[0, 0.2]",v0.wav']
    write_prompted(root / "prompted", rows=rows)
    code, written = _evaluate(root, "ade20k_speech")
    assert code == 0
    expected = {"items": 7, "classes": 3, "classes_without_a_pixel": 1, "left_out_no_prompt_file": 1}
    assert {key: written["items"][f"ade20k_speech/{key}"] for key in expected} == expected
    text = (root / "out/report.md").read_text()
    assert "7 items" in text and "1 classes without a pixel" in text and "1 no prompt file" in text


def test_word_outside_the_clip_is_counted(root):
    shutil.rmtree(root / "prompted")
    write_prompted(root / "prompted", rows=['p0.png,6600,s0.wav,"[7.5, 8]",v0.wav'])
    code, written = _evaluate(root, "ade20k_speech")
    assert code == 0 and sum(count for key, count in written["items"].items() if "out_of_range" in key) == 1
    assert "1 out of range words" in (root / "out/report.md").read_text()


def test_unreadable_gallery_clips_are_counted(root):
    code, written = _evaluate(root, "audioset_retrieval")
    assert code == 0 and written["items"]["audioset_retrieval/items"] == 9
    assert written["metrics"]["chance/audioset_retrieval/audio_to_image/recall_at_1"] == pytest.approx(1 / 9)


# ---------------------------------------------------------------------------------------------- refused


def test_mask_with_another_aspect_ratio_than_its_image_is_refused(root, capsys):
    mask = sorted((root / "twins/is3/gt_masks").iterdir())[0]
    Image.fromarray(np.full((50, 90), 255, np.uint8)).save(mask)
    code, written = _evaluate(root, "is3_masks")
    assert (code, written) == (2, None)
    _one_line(capsys, f"{mask} is 90 x 50 px", "is 64 x 64: allowed are this aspect ratio or 224 x 224")


def test_annotation_with_another_size_than_its_image_is_refused(root, capsys):
    annotation = root / "prompted/annotations/p0_seg.png"
    Image.fromarray(np.full((50, 90, 3), 255, np.uint8)).save(annotation)
    code, written = _evaluate(root, "ade20k_sound")
    assert (code, written) == (2, None)
    _one_line(capsys, f"{annotation} is 90 x 50 px")


@pytest.mark.parametrize(
    "benchmark",
    [
        "vggss",
        "extended_flickr",
        "avsbench_ms3",
        "ade20k_speech",
        "ade20k_sound",
        "places_retrieval",
        "disentanglement",
    ],
)
def test_nan_scores_are_one_error_line_and_write_nothing(root, benchmark, capsys):
    from safetensors.torch import load_file, save_file

    weights = load_file(root / "model/model.safetensors")
    broken = {
        key: torch.full_like(tensor, torch.nan) for key, tensor in weights.items() if key.startswith("image_projection")
    }
    save_file(weights | broken, root / "model/model.safetensors")
    code, written = _evaluate(root, benchmark)
    assert (code, written) == (1, None)
    _one_line(capsys, benchmark, "not finite numbers")


@pytest.mark.parametrize(
    ("benchmark", "missing", "message"),
    [
        ("vggss", "twins/vggss/metadata/vggss.json", "data.vggss.root: "),
        ("is3", "twins/is3/visual_frames", "no usable item (24 no_image)"),
        ("ade20k_sound", "prompted/prompted_segmentation.csv", "data.prompted_ade20k.root: "),
        ("ade20k_sound", "prompted/audio", "no usable row"),
        ("places_retrieval", "places/manifest.json", "places"),
    ],
)
def test_missing_data_is_refused_before_the_evaluation(root, benchmark, missing, message, capsys):
    path = root / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    code, written = _evaluate(root, benchmark)
    assert (code, written) == (2, None)
    _one_line(capsys, message)
