"""Readers of the published layouts: what they find in a whole folder, and what they say of a damaged or hostile one."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_localization import SIZE_PX, make_twins

from configs.errors import UsageError
from eval.benchmarks.localization.avsbench import read_avsbench
from eval.benchmarks.localization.dataset import boxes_region, mask_region, read_picture
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


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_twins(tmp_path_factory.mktemp("twins"))


@pytest.fixture
def copy(whole, tmp_path):
    """A twin that may be spoilt."""

    def of(name):
        return shutil.copytree(whole / name.partition("_s4")[0].partition("_ms3")[0], tmp_path / name)

    return of


# ---------------------------------------------------------------------------------------------- whole folders


@pytest.mark.parametrize(
    ("name", "items", "groups"),
    [
        ("vggss", 24, 24),
        ("flickr_soundnet", 24, 24),
        ("is3", 24, 12),
        ("avsbench_s4", 30, 6),
        ("avsbench_ms3", 30, 6),
        ("extended_vggss", 32, 32),
        ("extended_flickr", 32, 16),  # each picture is there with its own sound and with another one's
    ],
)
def test_a_whole_set_is_read_in_its_published_size(whole, name, items, groups):
    found = READERS[name](whole / name.partition("_s4")[0].partition("_ms3")[0])
    assert (len(found.items), len({item.group for item in found.items}), found.left_out) == (items, groups, {})
    assert all(item.picture.is_file() and item.sound.is_file() for item in found.items)
    assert all(item.in_view == bool(item.region().any()) for item in found.items if name != "avsbench_ms3")


def test_a_vgg_ss_box_lies_around_what_sounds_in_the_squeezed_picture(whole):
    for item in read_vgg_ss(whole / "vggss").items:
        with Image.open(item.picture) as picture:
            assert picture.size == (SIZE_PX, SIZE_PX * 3 // 4)
        own, region = read_picture(item.picture, 224).float() / 255, item.region() > 0
        inside, outside = own[:, region].mean(dim=1), own[:, ~region].mean(dim=1)
        assert item.label in CLASSES and (inside - outside).abs().max() > 0.05
        assert item.audio_window_s == 3.0 and item.second is None


def test_two_of_three_annotators_make_a_pixel_certain(whole):
    item = read_flickr_soundnet(whole / "flickr_soundnet").items[0]
    assert set(item.region().unique().tolist()) == {0.0, 0.5, 1.0}
    assert len(read_boxes(whole / "flickr_soundnet/Annotations" / f"{item.id}.xml")) == 3


def test_both_prompts_of_an_is3_picture_show_the_same_and_mean_different_places(whole):
    boxes, masks = (read_is3(whole / "is3", masks=masks).items for masks in (False, True))
    for first, second in zip(masks[::2], masks[1::2], strict=True):
        assert (
            first.group == second.group
            and first.label != second.label
            and first.picture.read_bytes() == second.picture.read_bytes()
        )
        assert not (first.region() * second.region()).any()
    for box, mask in zip(boxes, masks, strict=True):
        assert (
            box.id == mask.id
            and (mask.region() > box.region()).float().mean() < 0.002 < mask.region().mean() <= box.region().mean()
        )


def test_five_seconds_of_a_video_are_five_items_of_one_sound(whole):
    items = read_avsbench(whole / "avsbench", "ms3").items
    assert [item.second for item in items[:5]] == [0, 1, 2, 3, 4] and len({item.sound for item in items[:5]}) == 1
    one, again, both, other, silent = (item.region() for item in items[:5])
    assert both.sum() > max(one.sum(), other.sum()) and not silent.any()
    assert ((one > 0) & (again > 0)).any()
    assert {item.label for item in read_avsbench(whole / "avsbench", "s4").items} <= set(CLASSES)


def test_the_extension_has_sounds_of_what_is_not_in_view(whole):
    vggss, flickr = (read_extended(whole / f"extended_{base}", base).items for base in ("vggss", "flickr"))
    assert [item.in_view for item in vggss] == [True] * 16 + [False] * 16 == [item.in_view for item in flickr]
    assert all(item.picture.stem == item.sound.stem for item in vggss)
    assert all(item.picture.stem != item.sound.stem for item in flickr[16:])


# ---------------------------------------------------------------------------------------------- boxes and masks


def test_a_box_is_cut_at_the_border_and_one_without_a_pixel_covers_none():
    assert boxes_region([(-50, 10**30, 224, 10**31), (9, 5, 3, 8), (7, 7, 7, 9)]).sum() == 0
    assert boxes_region([(-9, -9, 2, 3)]).nonzero().tolist() == [[r, c] for r in range(3) for c in range(2)]
    assert boxes_region([(0, 0, 9, 9)] * 3, annotators_needed=2).unique().tolist() == [0.0, 1.0]


def test_boxes_outside_or_upside_down_stay_in_the_published_count(copy):
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
def test_a_mask_has_the_proportions_of_its_picture_or_the_size_all_are_measured_at(tmp_path, size, fits):
    Image.new("RGB", (64, 48)).save(tmp_path / "picture.png")
    Image.fromarray(np.full(size[::-1], 255, np.uint8)).save(tmp_path / "mask.png")
    if fits:
        assert mask_region(tmp_path / "mask.png", tmp_path / "picture.png", 128).eq(1).all()
    else:
        with pytest.raises(UsageError, match=rf"mask\.png is {size[0]} x {size[1]} px, its picture .* is 64 x 48"):
            mask_region(tmp_path / "mask.png", tmp_path / "picture.png", 128)


def test_masks_of_all_kinds_of_png_are_understood(tmp_path):
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


# ---------------------------------------------------------------------------------------------- what is missing


@pytest.mark.parametrize("name", READERS)
def test_missing_files_are_counted_by_reason_and_the_rest_is_used(copy, name):
    root = copy(name)
    before = READERS[name](root).items
    before[0].picture.unlink()
    before[-1].sound.unlink()
    found = READERS[name](root)
    assert found.left_out["no_picture"] >= 1 and found.left_out["no_sound"] >= 1
    assert len(found.items) + found.left_out.total() == len(before)


def test_an_is3_picture_counts_with_both_prompts_or_not_at_all(copy):
    root = copy("is3")
    next((root / "gt_masks").iterdir()).unlink()
    found = read_is3(root, masks=True)
    assert (len(found.items), dict(found.left_out)) == (22, {"no_annotation": 1, "no_other_prompt": 1})
    assert len(read_is3(root, masks=False).items) == 24


@pytest.mark.parametrize("name", READERS)
def test_a_set_without_a_usable_item_says_so_in_one_line_with_counts(copy, name):
    root = copy(name)
    for item in READERS[name](root).items:
        item.sound.unlink(missing_ok=True)
    with pytest.raises(UsageError, match=r"not one usable item \(\d+ no_sound\)") as caught:
        READERS[name](root)
    assert "\n" not in str(caught.value)


def test_an_extension_of_which_all_silent_rows_are_missing_is_no_extension(copy):
    root = copy("extended_vggss")
    for item in read_extended(root, "vggss").items[16:]:
        item.picture.unlink()
    with pytest.raises(UsageError, match=r"vggss_test_plus_silent\.csv of extended_vggss.*16 no_picture"):
        read_extended(root, "vggss")


@pytest.mark.parametrize("name", READERS)
def test_a_folder_without_its_table_names_the_setting_and_what_belongs_there(tmp_path, name):
    setting = "avsbench" if name.startswith("avsbench") else name
    with pytest.raises(UsageError, match=rf"{setting}={tmp_path}: no .* there; expected beside it are"):
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
