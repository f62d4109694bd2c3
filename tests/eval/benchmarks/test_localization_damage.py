"""Readers of the localization sets on damaged and hostile files: errors of one line that name file and row."""

import numpy as np
import pytest
from PIL import Image

from configs.errors import UsageError
from eval.benchmarks.localization.avsbench import read_avsbench
from eval.benchmarks.localization.dataset import read_square_image
from eval.benchmarks.localization.flickr_soundnet import read_boxes
from eval.benchmarks.localization.is3 import read_is3
from eval.benchmarks.localization.vgg_ss import read_vgg_ss


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"file": 1}', "is not a list of rows"),
        ("[3]", "row 0: .*a row is"),
        ('[{"file": "a", "class": "b"}]', "row 0: KeyError 'bbox'"),
        ('[{"file": "a", "class": "b", "bbox": [[0, 0, 1]]}]', "row 0: .*not enough values"),
        ('[{"file": "a", "class": "b", "bbox": [[0, 0, 1, NaN]]}]', "row 0: .*not a finite number"),
        ('[{"file": "a", "class": "b", "bbox": [[0, 0, 1, "x"]]}]', "row 0: .*could not convert"),
        ('[{"file": "a", "class": "b", "bbox": [[0, 0, 1, 1e308]]}]', "row 0: OverflowError"),
        ('[{"file": "a", "class": "b", "bbox": 4}]', "row 0: .*not iterable"),
        ('[{"file": "../../a", "class": "b", "bbox": []}]', "row 0: .*not a file name"),
        ('[{"file": "..", "class": "b", "bbox": []}]', "row 0: .*not a file name"),
    ],
)
def test_invalid_json_table_raises_one_line(tmp_path, text, message):
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata/vggss.json").write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_vgg_ss(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("truth", ["[1, 2, 3]", '"box"', "[0, 0, 1e999, 1]", "null"])
def test_invalid_is3_box_raises(tmp_path, truth):
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata/synthetic3240_bbox.json").write_text(
        f'[{{"image": "/x/a_b_1_a.jpg", "audio": "/x/a_b_1_a.wav", "gt_box": {truth}}}]'
    )
    with pytest.raises(UsageError, match=r"row 0: .*a row is"):
        read_is3(tmp_path, masks=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column split"),
        (b"name,category\na,b\n", "no column split; its columns are name, category"),
        (b"name,category,split\n../a,b,test\n", "line 2: .*not a file name"),
        (b"name,category,split\na\n", "line 2: .*not a file name"),
        (b"name,category,split\n\xff\xfe,b,test\n", "not a CSV file"),
        (b"name,category,split\n" + b'"' + b"a" * 200_000, "not a CSV file"),
        (b"name,category,split\na,b,train\n", r"no usable item \(its table is empty\)"),
    ],
)
def test_invalid_csv_table_raises_one_line(tmp_path, content, message):
    (tmp_path / "Single-source").mkdir()
    (tmp_path / "Single-source/s4_meta_data.csv").write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        read_avsbench(tmp_path, "s4")
    assert "\n" not in str(caught.value)


BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    b"<annotation><x><bbox><n/>&b;</bbox></x></annotation>"
)
OUTSIDE = b'<!DOCTYPE b SYSTEM "file:///etc/passwd"><annotation/>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an annotation file"),
        (b"<annotation><x>", "is not an annotation file"),
        (BOMB, "declares a document type, b"),
        (
            BOMB.decode().replace('version="1.0"', 'version="1.0" encoding="UTF-16"').encode("utf-16"),
            "declares a document type, b",
        ),
        (OUTSIDE, "declares a document type, b"),
        (b'<?xml version="1.0" encoding="klingon"?><a/>', "is not an annotation file"),
        (b"<a><b><bbox><n/><x>1</x><y>2</y></bbox></b></a>", "is not an annotation file.*five children"),
        (b"<a><b><bbox><n/><x>1</x><y>2</y><x>3</x><y>four</y></bbox></b></a>", "is not an annotation file"),
        (b"<a><b><bbox><n/><x/><y/><x/><y/></bbox></b></a>", "is not an annotation file"),
        (b"<a><b><bbox><n/><x>1e308</x><y>1</y><x>1</x><y>1</y></bbox></b></a>", "is not an annotation file"),
    ],
)
def test_invalid_or_hostile_annotation_raises_one_line(tmp_path, content, message):
    (tmp_path / "a.xml").write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        read_boxes(tmp_path / "a.xml")
    assert "\n" not in str(caught.value)


def test_deep_annotation_is_read_quickly(tmp_path):
    (tmp_path / "deep.xml").write_bytes(b"<a>" * 50_000 + b"</a>" * 50_000)
    assert read_boxes(tmp_path / "deep.xml") == []
    (tmp_path / "none.xml").write_bytes(b"<annotation/>")
    assert read_boxes(tmp_path / "none.xml") == []


@pytest.mark.parametrize("content", [b"", b"no picture", b"\xff\xd8\xff\xe0" + b"\0" * 50])
def test_invalid_image_is_named(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.jpg is not a complete image .*counted and left out"):
        read_square_image(tmp_path / "a.jpg", 224)


def test_truncated_image_is_named(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match=r"a\.jpg is not a complete image"):
        read_square_image(tmp_path / "a.jpg", 224)
