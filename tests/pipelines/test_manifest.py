"""Validation of rows, and the table of rows with the order in which they are assigned to shards."""

import json
import math

import pytest

from pipelines.build.row_table import write_rows
from pipelines.manifest import MAX_ID_LENGTH, REASONS, Clip, Rejected, check, is_id


def test_valid_clip_is_returned_unchanged():
    clip = Clip(id="-aB_9", media="videos/a b.mp4", start_s=1.0, end_s=2.0)
    assert check(clip) is clip


@pytest.mark.parametrize("bad", ["", "a.b", "a/b", "../x", "ä", "a b", "a\n", "x" * (MAX_ID_LENGTH + 1)])
def test_id_with_other_characters_or_too_long_is_rejected(bad):
    assert not is_id(bad)
    assert check(Clip(id=bad, media="a.mp4")).reason == "bad_id"


@pytest.mark.parametrize("bad", ["", "/etc/passwd", "../a.mp4", "a/../../b.mp4", "a\0b.mp4"])
def test_path_that_leaves_the_root_is_rejected(bad):
    assert check(Clip(id="a", media=bad)).reason == "bad_path"
    assert check(Clip(id="a", media="a.wav", image=bad or "..")).reason == "bad_path"


@pytest.mark.parametrize(
    "times", [(-1.0, 2.0), (3.0, 3.0), (3.0, 2.0), (math.nan, 2.0), (0.0, math.inf), (0.0, math.nan)]
)
def test_invalid_segment_times_are_rejected(times):
    assert check(Clip(id="a", media="a.mp4", start_s=times[0], end_s=times[1])).reason == "bad_times"


def test_end_of_zero_means_the_end_of_the_file():
    assert isinstance(check(Clip(id="a", media="a.mp4", start_s=5.0, end_s=0.0)), Clip)


def test_unknown_rejection_reason_is_an_assertion_error():
    assert all(meaning for meaning in REASONS.values())
    with pytest.raises(AssertionError):
        Rejected("a", "because", "")


def _clips(count):
    return [
        Clip(id=f"c{number}", media=f"{number}.mp4", labels=("x", "y"), text="é", words=(("é", 0.0, 0.5),))
        for number in range(count)
    ]


def test_row_table_returns_each_row_once_in_shuffled_order(tmp_path):
    clips = _clips(50)
    table = write_rows(clips, tmp_path / "rows", seed=0, rows_per_shard=8)
    found = list(table.read(0, 50))
    assert len(table) == table.clips == 50
    assert found != clips
    assert sorted(found, key=lambda c: int(c.id[1:])) == clips
    assert list(table.read(10, 20)) == found[10:20]
    assert list(table.read(45, 99)) == found[45:]
    assert (
        [table.rows_in(number) for number in range(table.shards)]
        == [len(table.of_shard(number)) for number in range(7)]
        == [8] * 6 + [2]
    )


def test_row_order_depends_on_seed_and_ids_but_not_on_input_order(tmp_path):
    def order(clips, seed):
        return [c.id for c in write_rows(clips, tmp_path / "rows", seed, rows_per_shard=8).read(0, 50)]

    assert order(_clips(50), 0) == order(_clips(50)[::-1], 0)
    assert order(_clips(50), 0) != order(_clips(50), 1)
    # sorted by the hashes that `printf '0 "c7"' | b2sum -l 64` prints
    assert order(_clips(8), 0) == ["c6", "c7", "c5", "c1", "c3", "c2", "c0", "c4"]


def test_first_of_several_rows_with_the_same_id_is_kept(tmp_path):
    rows = [
        Clip(id="a", media="1.mp4"),
        Rejected("?", "bad_row", "x"),
        Clip(id="a", media="2.mp4"),
        Clip(id="a.b", media="3.mp4"),
    ]
    table = write_rows(rows, tmp_path / "rows", seed=0, rows_per_shard=8)
    found = list(table.read(0, 4))
    assert table.clips == 1
    assert [row.media for row in found if isinstance(row, Clip)] == ["1.mp4"]
    assert sorted(row.reason for row in found if isinstance(row, Rejected)) == ["bad_id", "bad_row", "duplicate_id"]


def test_file_names_of_arbitrary_bytes_survive_the_row_table(tmp_path):
    name = b"a\xff\n.mp4".decode(errors="surrogateescape")
    table = write_rows([Clip(id="a", media=name)], tmp_path / "rows", seed=0, rows_per_shard=8)
    assert next(table.read(0, 1)).media == name
    assert len((tmp_path / "rows").read_text().splitlines()) == 1
    assert json.loads((tmp_path / "rows").read_text())["id"] == "a"


def test_row_is_stored_as_one_json_line_with_every_field(tmp_path):
    clip = Clip(
        "a",
        'ä "b"\\.wav',
        "c\n.jpg",
        0.1,
        1e16,
        "val",
        "places_audio",
        ('x, "y"', "\ud800"),
        "naïve\t\0",
        (("naïve", 0.0, 0.5),),
        ("é.wav",),
    )
    rejected = Rejected("ü\n", "bad_row", '"\0')
    write_rows([clip, rejected], tmp_path / "rows", seed=0, rows_per_shard=8)
    fields = {name: getattr(clip, name) for name in Clip.__annotations__}
    assert (tmp_path / "rows").read_text() == json.dumps(fields) + "\n" + json.dumps(vars(rejected)) + "\n"


def test_example_of_a_rejected_row_is_one_line(tmp_path):
    table = write_rows([Clip(id="a", media="../x\ny")], tmp_path / "rows", seed=0, rows_per_shard=8)
    assert table.example() == r", for example 'a': bad_path, '../x\ny'"
