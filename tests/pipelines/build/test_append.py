"""Adding rows to a finished data set: new shards, old ones untouched, resumable, and what is refused."""

import json
import os
import shutil
from pathlib import Path

import pytest
from tiny_builds import OURS, interrupt, start
from tiny_media import write_video

from configs.errors import CommandFailed, UsageError
from configs.load import load
from configs.schema import BuildConfig, StreamConfig, StreamSourceConfig, VerifyConfig
from pipelines import verify
from pipelines.build.__main__ import main
from pipelines.stream.index import DatasetIndex
from pipelines.stream.open_order import open_order

FIRST, MORE = range(10), range(10, 16)  # numbers of videos, four in a shard


def run(root: Path, out: Path, *words: str) -> int:
    arguments = {word.partition("=")[0]: word for word in [f"source.root={root}", f"out={out}", *OURS, *words]}
    return main(load(BuildConfig, list(arguments.values())))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "v.mp4", duration_s=1.0, events_s=(0.3,))


def add_media(root: Path, video: Path, numbers) -> None:
    root.mkdir(exist_ok=True)
    for number in numbers:
        os.link(video, root / f"v{number:02d}.mp4")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, video):
    """A data set of ten videos, one of them broken, and its media."""
    folder = tmp_path_factory.mktemp("finished")
    add_media(folder / "root", video, FIRST)
    (folder / "root/v03.mp4").unlink()
    (folder / "root/v03.mp4").write_text("text")
    assert run(folder / "root", folder / "out") == 0
    return folder


@pytest.fixture
def grown(finished, tmp_path, video):
    """A copy of it with six more videos, not yet added."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    add_media(tmp_path / "root", video, MORE)
    return tmp_path / "root", tmp_path / "out"


def numbers(out: Path) -> list[int]:
    index = DatasetIndex.open(out)
    return [int(index.id(clip)[1:3]) for clip in range(index.clips)]


def state(out: Path, pattern: str = "train-*") -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.glob(pattern)}


def is_whole(out: Path) -> bool:
    return verify.main(VerifyConfig(), str(out)) == 0


def test_added_rows_become_new_shards_and_old_ones_stay(grown, capsys):
    root, out = grown
    before, first = state(out), numbers(out)
    assert run(root, out, "append=true") == 0
    captured = capsys.readouterr()
    assert "skipped: 10 rows are in other shards of the data set already" in captured.err
    assert "rows              16" in captured.out and "written           15   in 5 shards" in captured.out
    after = state(out)
    assert after.keys() - before.keys() == {f"train-00000{n}.{kind}" for n in (3, 4) for kind in ("tar", "json")}
    assert {name: after[name] for name in before} == before
    assert numbers(out)[: len(first)] == first and sorted(numbers(out)[len(first) :]) == [*MORE]
    assert is_whole(out)
    (addition,) = json.loads((out / "manifest.json").read_text())["appended"]
    assert (addition["first_shard"], addition["shards"], addition["rows"]) == (3, 2, 6)


def test_the_same_command_again_adds_nothing_and_another_source_adds_its_rows(grown, video, tmp_path, capsys):
    root, out = grown
    assert run(root, out, "append=true") == 0
    before = state(out, "*")
    assert run(root, out, "append=true") == 0
    assert state(out, "*") == before
    (tmp_path / "vggsound.csv").write_text("AAAAAAAAAAA,0,label,train\n")
    os.link(video, tmp_path / "AAAAAAAAAAA.mp4")
    more = ["source.kind=vggsound", "source.media={ytid}.mp4", "source.media_is_cut=true", "append=true"]
    assert run(tmp_path, out, *more, "clips_per_shard=1") == 0
    assert DatasetIndex.open(out).id(15) == "AAAAAAAAAAA_0"
    assert is_whole(out)
    assert "rows              17" in capsys.readouterr().out


def test_stream_of_the_grown_data_set_has_another_order_and_every_clip(grown):
    root, out = grown

    def order():
        config = StreamConfig(sources=[StreamSourceConfig(name="mine", shards=[str(out)])], lanes=1)
        return open_order(config, 0, 2)

    before = order()
    assert run(root, out, "append=true") == 0
    after = order()
    assert before.fingerprint["sources"]["mine"] != after.fingerprint["sources"]["mine"]
    clips = after.indexes[0].clips
    assert clips == before.indexes[0].clips + len(MORE)
    assert sorted(after.sampler.clip(position)[1] for position in range(clips)) == [*range(clips)]


def test_killed_addition_leaves_the_old_data_set_and_is_resumed(grown, tmp_path):
    root, out = grown
    expected = tmp_path / "expected"
    shutil.copytree(out, expected)
    assert run(root, expected, "append=true", "clips_per_shard=2") == 0
    manifest = (out / "manifest.json").read_bytes()
    words = ("append=true", "clips_per_shard=2", "processes=1")
    _, process, _ = interrupt(
        lambda where: start(root, where, *words),
        [out],
        lambda where: (where / "train-000003.json").exists() and not (where / "train-000005.json").exists(),
    )
    assert process.returncode != 0
    assert (out / "manifest.json").read_bytes() == manifest and len(numbers(out)) == 9
    first = (out / "train-000003.tar").stat().st_mtime_ns
    assert run(root, out, *words) == 0
    assert (out / "train-000003.tar").stat().st_mtime_ns == first
    assert is_whole(out)
    names = [path.name for path in expected.iterdir() if path.is_file() and path.name != "stats.json"]
    assert all((out / name).read_bytes() == (expected / name).read_bytes() for name in names)


def test_slices_add_shards_too_and_their_leftovers_of_other_rows_are_removed(grown):
    root, out = grown
    sliced = ("append=true", "executor=slice", "clips_per_shard=2")
    for number in range(3):
        assert run(root, out, *sliced, f"slice={number}/3") == 0
    assert (out / "train-000005.tar").exists() and len(numbers(out)) == 9
    (root / "v10.mp4").unlink()
    with pytest.raises(CommandFailed, match=r"6 shards are missing \(train-000003.*run their slices first"):
        run(root, out, *sliced, "slice=finish")
    assert run(root, out, "append=true") == 0
    assert not (out / "train-000005.tar").exists() and len(numbers(out)) == 14
    assert is_whole(out)


def test_damaged_addition_is_completed_by_the_same_command_only(grown):
    root, out = grown
    assert run(root, out, "append=true") == 0
    whole = {name: content for name, (_, content) in state(out).items()}
    (out / "train-000004.tar").unlink()
    with pytest.raises(CommandFailed, match=r"1 of 5 shards are missing \(train-000004.*with append=true, first"):
        run(root, out)
    with pytest.raises(UsageError, match="shards from train-000003 on are damaged, and were added from other rows"):
        run(root, out, "append=true", "seed=1")
    assert run(root, out, "append=true") == 0
    assert {name: content for name, (_, content) in state(out).items()} == whole
    assert is_whole(out)


def test_the_first_command_again_repairs_old_shards_and_keeps_the_added_ones(grown):
    root, out = grown
    assert run(root, out, "append=true") == 0
    whole = {name: content for name, (_, content) in state(out, "*.[tj]*").items() if name != "stats.json"}
    assert run(root, out) == 0
    (out / "train-000001.tar").unlink()
    assert run(root, out) == 0
    found = {name: content for name, (_, content) in state(out, "*.[tj]*").items() if name != "stats.json"}
    assert found == whole
    assert is_whole(out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["decode.short_side_px=48"], r"other decode settings \(short_side_px: 32 -> 48\)"),
        (["source.split=val"], r"source.split=val cannot be added to out=.*, of split train"),
        (["retry_rejected=true"], "append=true does not go with retry_rejected=true"),
    ],
)
def test_addition_that_does_not_fit_is_a_one_line_error(grown, words, message):
    root, out = grown
    before = state(out, "*")
    with pytest.raises(UsageError, match=message) as raised:
        run(root, out, "append=true", *words)
    assert len(str(raised.value).splitlines()) == 1 and state(out, "*") == before


def test_rows_can_be_added_to_a_finished_and_undamaged_data_set_only(grown, tmp_path):
    root, out = grown
    with pytest.raises(UsageError, match=r"has no manifest.json: append=true adds to a finished data set"):
        run(root, tmp_path / "none", "append=true")
    assert not (tmp_path / "none").exists()
    with pytest.raises(UsageError, match="the rows of the source; append=true adds new ones"):
        run(root, out)
    (out / "train-000001.json").write_text("{}")
    with pytest.raises(UsageError, match=r"train-000001 is missing or damaged; run pipelines.verify on it"):
        run(root, out, "append=true")
