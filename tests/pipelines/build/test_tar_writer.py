"""Tars written through webdataset: the bytes of a plain tar without times and owners, whatever is stored."""

import hashlib
import io
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from paths import ROOT
from webdataset.tariterators import group_by_keys, tar_file_iterator

from pipelines.build.tar_writer import add_members, open_tar_writer
from pipelines.shard_format import tar_members


def _clips(count: int = 12) -> dict[str, dict[str, bytes]]:
    """Members in an order that is not sorted, of sizes around the blocks and records of a tar."""
    rng = np.random.default_rng(0)
    sizes = (0, 1, 511, 512, 513, 10239, 10240, 10241, 70_000)
    return {
        f"clip-{number}": {
            "json": rng.bytes(300),
            **{f"{frame}.jpg": rng.bytes(int(rng.choice(sizes))) for frame in (0, 1, 10, 2)},
            "flac": rng.bytes(200_001),
            "mel.npy": b"",
        }
        for number in range(count)
    }


def _written(clips: dict[str, dict[str, bytes]]) -> tuple[bytes, dict[str, dict[str, tuple[int, int]]]]:
    file = io.BytesIO()
    with open_tar_writer(file) as writer:
        byte_ranges = {key: add_members(writer, key, files) for key, files in clips.items()}
    return file.getvalue(), byte_ranges


def _plain_tar(clips: dict[str, dict[str, bytes]], form: int) -> bytes:
    """What tarfile writes for members without time and owner."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for key, files in clips.items():
            for extension, data in files.items():
                header = tarfile.TarInfo(f"{key}.{extension}")
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
    return file.getvalue()


def _as_stock_webdataset_reads(data: bytes) -> dict[str, dict[str, bytes]]:
    members = ({**member, "__url__": ""} for member in tar_file_iterator(io.BytesIO(data)))
    return {
        sample["__key__"]: {name: value for name, value in sample.items() if not name.startswith("__")}
        for sample in group_by_keys(members)
    }


@pytest.mark.parametrize("count", [0, 1, 12])
def test_bytes_are_those_of_a_plain_ustar_archive_in_the_order_of_the_members(count):
    clips = _clips(count)
    data, byte_ranges = _written(clips)
    assert data == _plain_tar(clips, tarfile.USTAR_FORMAT)
    for key, files in clips.items():
        assert {name: data[at : at + size] for name, (at, size) in byte_ranges[key].items()} == files
        assert list(byte_ranges[key]) == list(files)


def test_bytes_do_not_change_between_versions():
    digest = hashlib.sha256(_written(_clips())[0]).hexdigest()
    assert digest == "2e5fdca11da959c3303c500831cb68c970f4635f57b13c7c7316a863a868d128"


@pytest.mark.parametrize("length", [99, 100, 101, 150, 300])
def test_names_of_any_length_are_read_at_their_byte_ranges_and_by_stock_webdataset(length):
    clips = _clips(2)
    clips = {f"{number}{'k' * (length - 5 - len('.json'))}-end": files for number, files in enumerate(clips.values())}
    assert {len(f"{key}.json") for key in clips} == {length}
    data, byte_ranges = _written(clips)
    for key, files in clips.items():
        assert {name: data[at : at + size] for name, (at, size) in byte_ranges[key].items()} == files
    assert _as_stock_webdataset_reads(data) == clips
    listed = {member.name: (member.offset_data, member.size) for member in tar_members(io.BytesIO(data))}
    assert listed == {f"{key}.{name}": span for key, files in byte_ranges.items() for name, span in files.items()}
    assert data == _plain_tar(clips, tarfile.PAX_FORMAT)


def test_torch_is_not_imported_and_a_later_import_of_webdataset_is_complete():
    code = (
        "import io, sys\n"
        "from pipelines.build.tar_writer import add_members, open_tar_writer\n"
        "with open_tar_writer(io.BytesIO()) as writer:\n"
        "    add_members(writer, 'a', {'json': b'{}'})\n"
        "print('torch' in sys.modules)\n"
        "import torch.utils.data, webdataset\n"
        "print(issubclass(webdataset.WebDataset, torch.utils.data.IterableDataset))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["False", "True"], done.stderr
