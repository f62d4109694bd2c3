"""Prompted segmentation on a small folder, with an oracle model: color channel c of the image belongs to pitch c."""

import numpy as np
import pytest
import soundfile
import torch
from oracle_encoders import Colors, Identity, Pitches
from PIL import Image
from tiny_prompted import RATE_HZ, SIZE_PX, write_prompted

from configs.errors import CommandFailed, UsageError
from eval.benchmarks.prompted_ade20k.benchmark import PromptedADE20K
from model.denseav import DenseAV, InputSpec, SimilarityConfig


@pytest.fixture
def oracle_model():
    return DenseAV(
        Colors(), Pitches(), Identity(), Identity(), 1, 1, InputSpec(SIZE_PX, 1.0, RATE_HZ), SimilarityConfig()
    ).eval()


@pytest.mark.parametrize("prompt", ["speech", "sound"])
def test_oracle_model_scores_one_and_less_with_shuffled_prompts(tmp_path, oracle_model, prompt):
    benchmark = PromptedADE20K(str(write_prompted(tmp_path)), prompt, batch_size=4, seed=0)
    measured, shuffled = benchmark.evaluate(oracle_model), benchmark.evaluate(oracle_model, shuffled=True)
    assert measured.metrics["basic/map"] > 0.99 and measured.metrics["basic/miou"] > 0.9
    assert ("advanced/map" in measured.metrics) == (prompt == "speech")
    assert shuffled.metrics["basic/map"] < 0.7
    assert measured.items["items"] == 6 and measured.items["classes"] == 3
    assert measured.chance["basic/map"] == pytest.approx(24 * 24 / 64**2, rel=0.2)


def test_examples_go_from_best_to_worst_with_images_and_audio(tmp_path, oracle_model):
    measured = PromptedADE20K(str(write_prompted(tmp_path, count=9)), "sound", batch_size=4, seed=0).evaluate(
        oracle_model
    )
    own = [e.average_precision for e in measured.examples]
    assert len(own) == 5 and own == sorted(own, reverse=True)
    example = measured.examples[0]
    assert example.image.shape == (64, 64, 3) and example.heads.shape == (1, 64, 64) and example.target.any()
    assert example.heatmap.min() >= 0 and example.heatmap.max() <= 1
    assert len(example.waveform) == RATE_HZ


def test_every_metric_has_an_interval_and_validation_thresholds_are_reported(tmp_path, oracle_model):
    measured = PromptedADE20K(str(write_prompted(tmp_path, count=12)), "speech", batch_size=5, seed=0).evaluate(
        oracle_model
    )
    assert set(measured.metrics) == {
        f"{variant}/{key}" for variant in ("basic", "advanced") for key in ("map", "miou", "miou_val_threshold")
    }
    assert set(measured.intervals) == set(measured.metrics)
    assert all(low - 1e-6 <= measured.metrics[key] <= high + 1e-6 for key, (low, high) in measured.intervals.items())
    assert measured.metrics["basic/miou_val_threshold"] > 0.9
    assert measured.items["classes_without_a_pixel_in_one_half"] == 0 and measured.items["min_class_items"] == 4


def test_annotations_are_read_once(tmp_path, oracle_model):
    benchmark = PromptedADE20K(str(write_prompted(tmp_path)), "sound", batch_size=4, seed=0)
    before = benchmark.evaluate(oracle_model)
    for n in range(6):
        (tmp_path / f"annotations/p{n}_seg.png").write_bytes(b"gone")
    assert benchmark.evaluate(oracle_model, shuffled=True).metrics.keys() == before.metrics.keys()


def test_nonfinite_maps_raise_one_line(tmp_path, oracle_model):
    oracle_model.image_encoder.forward = lambda frames: (
        torch.full_like(frames[:, :, ::8, ::8], torch.nan, dtype=torch.float),
        None,
    )
    with pytest.raises(
        CommandFailed,
        match=r"ade20k_sound: 6 of 6 maps contain values that are not finite numbers, first that of .*p0\.png",
    ):
        PromptedADE20K(str(write_prompted(tmp_path)), "sound", batch_size=4, seed=0).evaluate(oracle_model)


def test_words_outside_the_clip_are_counted_and_measured(tmp_path, oracle_model):
    rows = ['p0.png,6600,s0.wav,"[1.0, 1.5]",v0.wav', 'p1.png,6601,s1.wav,"[7, 8]",v1.wav']
    items = (
        PromptedADE20K(str(write_prompted(tmp_path, rows=rows)), "speech", batch_size=4, seed=0)
        .evaluate(oracle_model)
        .items
    )
    assert items["out_of_range_words"] == 2 and items["items"] == 8


def test_words_after_the_audio_and_duplicate_rows_are_counted(tmp_path, oracle_model):
    write_prompted(
        tmp_path, rows=['p0.png,6600,short.wav,"[0.5, 0.9]",v0.wav', *2 * ['p1.png,6601,s1.wav,"[0.25, 0.75]",v1.wav']]
    )
    soundfile.write(tmp_path / "audio/short.wav", 0.5 * np.sin(np.arange(4800)), RATE_HZ)
    items = PromptedADE20K(str(tmp_path), "speech", batch_size=4, seed=0).evaluate(oracle_model).items
    assert (items["items"], items["out_of_range_words"], items["duplicates"]) == (9, 1, 2)


def test_classes_with_equal_names_stay_separate(tmp_path, oracle_model):
    write_prompted(tmp_path, count=2)
    (tmp_path / "class_names.csv").write_text("ade_class_id,name\n6600,door\n6601,door\n")
    measured = PromptedADE20K(str(tmp_path), "sound", batch_size=4, seed=0).evaluate(oracle_model)
    assert measured.per_class.keys() == {"door (class 6600)", "door (class 6601)"}
    assert all(values["items"] == 1 and values["ap"] > 0.99 for values in measured.per_class.values())


@pytest.mark.parametrize("timing", ["[0.7, 0.2]", "[-1, 1]", "[0, Infinity]", "[NaN, 1]", "[1]", "3", "soon"])
def test_invalid_timing_raises(tmp_path, timing):
    with pytest.raises(UsageError, match=r"line 8: .*0 <= start_s <= end_s"):
        PromptedADE20K(
            str(write_prompted(tmp_path, rows=[f'p0.png,6600,s0.wav,"{timing}",v0.wav'])),
            "speech",
            batch_size=4,
            seed=0,
        )


def test_unusable_rows_are_counted_by_reason(tmp_path, oracle_model):
    rows = [
        'p0.png,0,s0.wav,"[0, 1]",v0.wav',
        'p1.png,7,gone.wav,"[0, 1]",v0.wav',
        'gone.png,7,s0.wav,"[0, 1]",v0.wav',
        'p1.png,7,,"",v0.wav',
    ]
    benchmark = PromptedADE20K(str(write_prompted(tmp_path, rows=rows)), "speech", batch_size=4, seed=0)
    items = benchmark.evaluate(oracle_model).items
    assert {k: v for k, v in items.items() if k.startswith("left_out")} == {
        "left_out_class_0": 1,
        "left_out_no_prompt_file": 2,
        "left_out_no_image_or_annotation": 1,
    }
    assert items["items"] == 6


def test_class_without_a_pixel_is_counted_and_not_in_the_mean(tmp_path, oracle_model):
    benchmark = PromptedADE20K(
        str(write_prompted(tmp_path, rows=['p0.png,9,s0.wav,"[0, 1]",v0.wav'])), "sound", batch_size=4, seed=0
    )
    measured = benchmark.evaluate(oracle_model)
    assert measured.items["classes"] == 3 and measured.items["classes_without_a_pixel"] == 1
    assert measured.metrics["basic/map"] > 0.99


def test_table_with_a_byte_order_mark_is_read(tmp_path):
    table = write_prompted(tmp_path) / "prompted_segmentation.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    assert len(PromptedADE20K(str(tmp_path), "speech", batch_size=4, seed=0).items) == 6


def _append_row(root, row):
    with (root / "prompted_segmentation.csv").open("a") as file:
        file.write(row + "\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda root: (root / "prompted_segmentation.csv").unlink(),
            r"no prompted_segmentation\.csv; the folder must contain it and frames",
        ),
        (
            lambda root: (root / "prompted_segmentation.csv").write_text("image_location,ade_class_id\n"),
            "no column vggsound_file",
        ),
        (
            lambda root: (root / "prompted_segmentation.csv").write_text(
                "image_location,ade_class_id,vggsound_file\np0.png,x,v0.wav\n"
            ),
            "line 2.*whole number",
        ),
        (lambda root: [f.unlink() for f in (root / "audio").iterdir()], "no usable row.*6 no_prompt_file"),
        (
            lambda root: (root / "prompted_segmentation.csv").write_bytes(
                b"image_location,ade_class_id,vggsound_file\n\xff"
            ),
            "is not a CSV file: 'utf-8'",
        ),
        (lambda root: _append_row(root, "7"), "line 8: .*a whole number"),
        (lambda root: _append_row(root, f'p0.png,{10**30},"",,v0.wav'), "line 8: .*is not 0 to 6655"),
        (
            lambda root: _append_row(root, f'"{"p" * 300}.png",7,"",,v0.wav'),
            "line 8: .*304 characters is not a file name",
        ),
        (
            lambda root: (root / "class_names.csv").write_text("Idx,Name\n"),
            "class_names.csv: no column ade_class_id, name",
        ),
        (
            lambda root: (root / "class_names.csv").write_text("ade_class_id,name\nx,door\n"),
            "class_names.csv, line 2: .*'x'",
        ),
    ],
)
def test_missing_or_invalid_files_raise(tmp_path, damage, message):
    damage(write_prompted(tmp_path))
    with pytest.raises(UsageError, match=message):
        PromptedADE20K(str(tmp_path), "sound", batch_size=4, seed=0)


def test_annotation_of_another_size_raises(tmp_path, oracle_model):
    Image.fromarray(np.zeros((10, 10, 3), np.uint8)).save(write_prompted(tmp_path) / "annotations/p2_seg.png")
    with pytest.raises(UsageError, match=r"p2_seg\.png is 10 x 10 px"):
        PromptedADE20K(str(tmp_path), "sound", batch_size=4, seed=0).evaluate(oracle_model)


def test_damaged_annotation_is_named(tmp_path, oracle_model):
    path = write_prompted(tmp_path) / "annotations/p2_seg.png"
    damaged = bytearray(path.read_bytes())
    damaged[37:41] = b"\0\0\0\0"  # the type of the second chunk
    path.write_bytes(damaged)
    with pytest.raises(UsageError, match=r"p2_seg\.png is not a complete image"):
        PromptedADE20K(str(tmp_path), "sound", batch_size=4, seed=0).evaluate(oracle_model)


def test_invalid_prompt_audio_is_named(tmp_path, oracle_model):
    (write_prompted(tmp_path) / "audio/v3.wav").write_bytes(b"RIFF nothing")
    with pytest.raises(UsageError, match=r"v3\.wav is not an audio file"):
        PromptedADE20K(str(tmp_path), "sound", batch_size=4, seed=0).evaluate(oracle_model)


class Nearest:
    """Nearest-neighbor upsampling, as an upsampler that looks at images and features."""

    reads_image = reads_features = True

    def weights(self, image, features, size):
        assert image.shape[0] == features.shape[0] and image.dtype == torch.uint8
        self.size = size
        return self

    def apply_maps(self, maps):
        return torch.nn.functional.interpolate(maps, self.size, mode="nearest")

    apply = apply_maps


def test_maps_are_upsampled_and_bilinear_ones_are_a_baseline(tmp_path, oracle_model):
    root = str(write_prompted(tmp_path))
    plain = PromptedADE20K(root, "speech", batch_size=4, seed=0)
    guided = PromptedADE20K(root, "speech", batch_size=4, seed=0, upsampler=Nearest())
    expected, measured = plain.evaluate(oracle_model), guided.evaluate(oracle_model)
    assert guided.baselines - plain.baselines == {"bilinear"}
    assert guided.evaluate_baseline("bilinear", oracle_model) == expected.metrics
    assert measured.metrics.keys() == expected.metrics.keys() and measured.metrics != expected.metrics
    assert measured.metrics["basic/map"] > 0.9 and measured.examples[0].heatmap.shape == (64, 64)
