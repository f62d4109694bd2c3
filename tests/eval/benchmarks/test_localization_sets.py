"""Readers of the published layouts on complete folders and on folders with missing files."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_localization import SIZE_PX

from configs.errors import UsageError
from eval.benchmarks.localization.avsbench import read_avsbench
from eval.benchmarks.localization.dataset import boxes_region, mask_region, read_square_image
from eval.benchmarks.localization.flickr_soundnet import read_boxes, read_flickr_soundnet
from eval.benchmarks.localization.is3 import read_is3
from eval.benchmarks.localization.slavc import read_extended
from eval.benchmarks.localization.vgg_ss import read_vgg_ss
from pipelines.toy_world.scene import CLASSES

READERS = {
    "vggss": read_vgg_ss,
    "flickr_soundnet": read_flickr_soundnet,
    "is3": partial(read_is3, masks=True),
    "avsbench_s4": partial(read_avsbench, part="s4"),
    "avsbench_ms3": partial(read_avsbench, part="ms3"),
    "extended_vggss": partial(read_extended, base="vggss"),
    "extended_flickr": partial(read_extended, base="flickr"),
}


@pytest.fixture
def copy(sets, tmp_path):
    """A function that copies a set, for a test to damage."""

    def copy_set(name):
        return shutil.copytree(sets / name.partition("_s4")[0].partition("_ms3")[0], tmp_path / name)

    return copy_set


# ---------------------------------------------------------------------------------------------- complete folders


@pytest.mark.parametrize(
    ("name", "items", "groups"),
    [
        ("vggss", 24, 24),
        ("flickr_soundnet", 24, 24),
        ("is3", 24, 12),
        ("avsbench_s4", 30, 6),
        ("avsbench_ms3", 30, 6),
        ("extended_vggss", 32, 32),
        ("extended_flickr", 32, 16),  # each image occurs with its own audio and with another one's
    ],
)
def test_complete_set_has_its_published_size(sets, name, items, groups):
    found = READERS[name](sets / name.partition("_s4")[0].partition("_ms3")[0])
    assert (len(found.items), len({item.group for item in found.items}), found.left_out) == (items, groups, {})
    assert all(item.image.is_file() and item.audio.is_file() for item in found.items)
    assert all(item.in_view == bool(item.region().any()) for item in found.items if name != "avsbench_ms3")


def test_vgg_ss_boxes_surround_the_source_in_the_square_image(sets):
    for item in read_vgg_ss(sets / "vggss").items:
        with Image.open(item.image) as picture:
            assert picture.size == (SIZE_PX, SIZE_PX * 3 // 4)
        own, region = read_square_image(item.image, 224).float() / 255, item.region() > 0
        inside, outside = own[:, region].mean(dim=1), own[:, ~region].mean(dim=1)
        assert item.label in CLASSES and (inside - outside).abs().max() > 0.05
        assert item.audio_window_s == 3.0 and item.second is None


def test_pixels_of_two_annotators_count_fully(sets):
    item = read_flickr_soundnet(sets / "flickr_soundnet").items[0]
    assert set(item.region().unique().tolist()) == {0.0, 0.5, 1.0}
    assert len(read_boxes(sets / "flickr_soundnet/Annotations" / f"{item.id}.xml")) == 3


def test_both_prompts_of_an_is3_image_have_disjoint_regions(sets):
    boxes, masks = (read_is3(sets / "is3", masks=masks).items for masks in (False, True))
    for first, second in zip(masks[::2], masks[1::2], strict=True):
        assert (
            first.group == second.group
            and first.label != second.label
            and first.image.read_bytes() == second.image.read_bytes()
        )
        assert not (first.region() * second.region()).any()
    for box, mask in zip(boxes, masks, strict=True):
        assert (
            box.id == mask.id
            and (mask.region() > box.region()).float().mean() < 0.002 < mask.region().mean() <= box.region().mean()
        )


def test_avsbench_video_has_five_items_with_one_audio_file(sets):
    items = read_avsbench(sets / "avsbench", "ms3").items
    assert [item.second for item in items[:5]] == [0, 1, 2, 3, 4] and len({item.audio for item in items[:5]}) == 1
    one, again, both, other, silent = (item.region() for item in items[:5])
    assert both.sum() > max(one.sum(), other.sum()) and not silent.any()
    assert ((one > 0) & (again > 0)).any()
    assert {item.label for item in read_avsbench(sets / "avsbench", "s4").items} <= set(CLASSES)


def test_extended_set_contains_items_with_no_source_in_view(sets):
    vggss, flickr = (read_extended(sets / f"extended_{base}", base).items for base in ("vggss", "flickr"))
    assert [item.in_view for item in vggss] == [True] * 16 + [False] * 16 == [item.in_view for item in flickr]
    assert all(item.image.stem == item.audio.stem for item in vggss)
    assert all(item.image.stem != item.audio.stem for item in flickr[16:])


# ---------------------------------------------------------------------------------------------- boxes and masks


def test_boxes_are_clipped_and_empty_boxes_cover_nothing():
    assert boxes_region([(-50, 10**30, 224, 10**31), (9, 5, 3, 8), (7, 7, 7, 9)]).sum() == 0
    assert boxes_region([(-9, -9, 2, 3)]).nonzero().tolist() == [[r, c] for r in range(3) for c in range(2)]
    assert boxes_region([(0, 0, 9, 9)] * 3, annotators_needed=2).unique().tolist() == [0.0, 1.0]


def test_items_with_empty_or_clipped_boxes_are_kept(copy):
    root = copy("vggss")
    table = root / "metadata/vggss.json"
    rows = json.loads(table.read_text())
    rows[0]["bbox"], rows[1]["bbox"], rows[2]["bbox"] = [[-1, -0.5, 2, 0.5]], [[0.9, 0.9, 0.1, 0.1]], []
    table.write_text(json.dumps(rows))
    items = read_vgg_ss(root).items
    assert len(items) == 24
    assert items[0].region().nonzero().max(dim=0).values.tolist() == [111, 223]
    assert items[1].region().sum() == items[2].region().sum() == 0


@pytest.mark.parametrize(
    ("size", "fits"), [((64, 48), True), ((224, 224), True), ((33, 25), True), ((64, 64), False), ((48, 64), False)]
)
def test_mask_needs_the_aspect_ratio_of_its_image_or_224_pixels(tmp_path, size, fits):
    Image.new("RGB", (64, 48)).save(tmp_path / "picture.png")
    Image.fromarray(np.full(size[::-1], 255, np.uint8)).save(tmp_path / "mask.png")
    if fits:
        assert mask_region(tmp_path / "mask.png", tmp_path / "picture.png", 128).eq(1).all()
    else:
        with pytest.raises(UsageError, match=rf"mask\.png is {size[0]} x {size[1]} px, but its image .* is 64 x 48"):
            mask_region(tmp_path / "mask.png", tmp_path / "picture.png", 128)


def test_masks_are_read_from_gray_binary_and_palette_pngs(tmp_path):
    inside = np.zeros((224, 224), bool)
    inside[20:90, 30:200] = True
    Image.new("RGB", (224, 224)).save(tmp_path / "picture.png")
    palette = Image.fromarray(inside.astype(np.uint8))
    palette.putpalette([0, 0, 0, 40, 0, 0])
    kinds = {
        "grey": Image.fromarray(inside.astype(np.uint8) * 255),
        "one_bit": Image.fromarray(inside),
        "palette": palette,
    }
    for name, image in kinds.items():
        image.save(tmp_path / f"{name}.png")
        assert torch.equal(
            mask_region(tmp_path / f"{name}.png", tmp_path / "picture.png", 1) > 0, torch.from_numpy(inside)
        ), name


# ---------------------------------------------------------------------------------------------- missing files


@pytest.mark.parametrize("name", READERS)
def test_items_with_missing_files_are_counted_by_reason(copy, name):
    root = copy(name)
    before = READERS[name](root).items
    before[0].image.unlink()
    before[-1].audio.unlink()
    found = READERS[name](root)
    assert found.left_out["no_image"] >= 1 and found.left_out["no_audio"] >= 1
    assert len(found.items) + found.left_out.total() == len(before)


def test_is3_image_is_left_out_unless_both_prompts_exist(copy):
    root = copy("is3")
    next((root / "gt_masks").iterdir()).unlink()
    found = read_is3(root, masks=True)
    assert (len(found.items), dict(found.left_out)) == (22, {"no_annotation": 1, "no_other_prompt": 1})
    assert len(read_is3(root, masks=False).items) == 24


@pytest.mark.parametrize("name", READERS)
def test_set_without_usable_items_raises_one_line_with_counts(copy, name):
    root = copy(name)
    for item in READERS[name](root).items:
        item.audio.unlink(missing_ok=True)
    with pytest.raises(UsageError, match=r"no usable item \(\d+ no_audio\)") as caught:
        READERS[name](root)
    assert "\n" not in str(caught.value)


def test_extended_set_without_added_items_raises(copy):
    root = copy("extended_vggss")
    for item in read_extended(root, "vggss").items[16:]:
        item.image.unlink()
    with pytest.raises(UsageError, match=r"vggss_test_plus_silent\.csv: no usable item .*16 no_image"):
        read_extended(root, "vggss")


@pytest.mark.parametrize("name", READERS)
def test_missing_table_raises_with_the_expected_contents(tmp_path, name):
    with pytest.raises(UsageError, match=rf"{tmp_path}: no .*; the folder must contain it and"):
        READERS[name](tmp_path)


def test_duplicate_rows_are_counted(copy):
    root = copy("vggss")
    table = root / "metadata/vggss.json"
    table.write_text(json.dumps(json.loads(table.read_text()) * 2))
    assert (len(read_vgg_ss(root).items), dict(read_vgg_ss(root).left_out)) == (24, {"duplicate": 24})
    root = copy("flickr_soundnet")
    table = root / "metadata/flickr_test.csv"
    table.write_text(table.read_text() * 3)
    assert read_flickr_soundnet(root).left_out == {"duplicate": 48}
