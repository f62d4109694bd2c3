"""pipelines.inspect prints a table or one clip of built and foreign shards, local and remote."""

import json
import os
import re
import subprocess
import sys

import fsspec
import pytest
from paths import ROOT
from tiny_inspect import TAR, ids, inspect

from configs.errors import UsageError
from configs.schema import InspectConfig
from pipelines.inspect.__main__ import main


def test_a_built_shard_prints_a_table_of_its_clips(out, capsys):
    code, lines = inspect(capsys, out / TAR)
    assert code == 0
    assert lines[0].startswith(f"{out}/{TAR}: ") and lines[0].endswith("2 clips; members: 6 jpg, 2 json, 2 flac")
    assert [line.split()[0] for line in lines[1:]] == ["key", *ids(out, "train-000001")]
    assert re.search(r"0\.00 - 0\.80 s +0\.80 s +3 of 64x48 px +0\.80 s 16000 Hz -\d\.\d dBFS", lines[2])


def test_a_data_set_prints_its_totals_and_samples_all_its_shards(out, capsys):
    code, lines = inspect(capsys, out, clips=4)
    assert code == 0
    assert lines[0] == f"{out}: 8 rows = 8 clips + 0 rejected, in 4 shards"
    shown = [line.split()[0] for line in lines[2:]]
    assert len(shown) == 4 and all(len(set(ids(out, f"train-{number:06d}")) & set(shown)) == 1 for number in range(4))
    assert [line.split()[0] for line in inspect(capsys, out, clips=100)[1][2:]] == ids(out)


def test_an_unfinished_data_set_shows_its_first_shard_and_reports_the_missing_manifest(out, capsys):
    (out / "manifest.json").unlink()
    code, lines = inspect(capsys, out)
    assert code == 1
    assert "manifest.json is missing" in lines[1] and "showing the first of 4 shards" in lines[1]
    assert [line.split()[0] for line in lines[3:]] == ids(out, "train-000000")


def test_key_prints_all_fields_members_and_json_of_its_clip(out, capsys):
    key = ids(out)[5]
    code, lines = inspect(capsys, out, key=key)
    assert code == 0
    text = "\n".join(lines)
    assert re.search(rf"key +{key}\n", text) and re.search(r"shard +train-000002", text)
    assert re.search(r"\n0\.jpg +\d+ bytes at \d+ +64x48 px\n", text) and re.search(r"\nflac +\d+ bytes", text)
    assert json.loads(text[text.index("\n{") :])["id"] == key


@pytest.mark.parametrize("shard", ["", TAR])
def test_an_unknown_key_is_a_usage_error_that_lists_similar_keys(out, shard):
    similar = ids(out, "train-000001")[0]
    with pytest.raises(UsageError, match=f"key={similar}x is not in .*; similar keys: {similar}, "):
        main(InspectConfig(key=f"{similar}x"), f"{out}/{shard}".rstrip("/"))


def test_a_stock_webdataset_shard_is_read_without_an_index_and_without_unpickling(stock, capsys):
    code, lines = inspect(capsys, stock, clips=5)
    assert code == 0
    assert "20 clips; members: 20 cls, 20 json, 20 npy, 20 png, 20 pyd, 20 wav" in lines[0]
    assert [line.split()[0] for line in lines[2:]] == ["a/000002", "a/000006", "a/000010", "a/000014", "a/000018"]
    assert re.search(r"1 of 60x40 px +0\.50 s 8000 Hz -6\.0 dBFS +caption 2$", lines[2])
    text = "\n".join(inspect(capsys, stock, key="a/000012")[1])
    assert re.search(r"npy +\d+ bytes at \d+ +float16 \(3, 13\)", text) and re.search(r"pyd +\d+ bytes at \d+\n", text)


@pytest.mark.parametrize(
    "address", ["{}/none", "{}/none.tar", "{}/none/x.tar", "{}/out/manifest.json", "memory://none", "{}"]
)
def test_an_address_without_shards_is_a_usage_error(out, address):
    with pytest.raises(UsageError, match="no such shard"):
        main(InspectConfig(), address.format(out.parent))


def test_shards_on_fsspec_file_systems_are_inspected(out, stock, capsys):
    fs = fsspec.filesystem("memory")
    fs.put(f"{out}/", "/inspect", recursive=True)
    fs.put(str(stock), "/inspect_stock/stock.tar")
    assert [line.split()[0] for line in inspect(capsys, "memory://inspect")[1][2:]] == ids(out)
    assert inspect(capsys, f"memory://inspect/{TAR}")[0] == 0
    assert inspect(capsys, "memory://inspect_stock/stock.tar", key="a/000003")[0] == 0


def test_the_command_exits_with_0_1_or_2(out):
    def code(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "pipelines.inspect", *arguments], cwd=ROOT, capture_output=True
        ).returncode

    assert code(str(out), "clips=1") == 0
    assert code(str(out), "key=nobody") == 2
    os.truncate(out / "train-000000.tar", 100)
    assert code(str(out)) == 1
