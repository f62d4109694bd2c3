"""Items of lists addressed by name on the command line."""

from pathlib import Path

import pytest

from configs.load import load
from configs.schema import TrainConfig


def test_an_item_of_a_list_has_its_name_beside_its_number(tmp_path):
    (tmp_path / "c.yaml").write_text("stream: {sources: [{name: a, shards: A}, {name: b, shards: B}]}")
    sources = load(TrainConfig, [f"config={tmp_path}/c.yaml", "stream.sources.b.weight=3"]).stream.sources
    assert [(source.name, source.shards, source.weight) for source in sources] == [("a", ["A"], 1.0), ("b", ["B"], 3.0)]


@pytest.mark.parametrize("item", ["c", "2"])
def test_a_new_name_or_the_next_number_adds_an_item(tmp_path, item):
    (tmp_path / "c.yaml").write_text("stream: {sources: [{name: a, shards: A}, {name: b, shards: B}]}")
    arguments = [f"config={tmp_path}/c.yaml", f"stream.sources.{item}.shards=C", f"stream.sources.{item}.weight=2"]
    sources = load(TrainConfig, arguments).stream.sources
    assert [source.shards for source in sources] == [["A"], ["B"], ["C"]] and sources[2].weight == 2.0
    assert sources[2].name == ("c" if item == "c" else "")


def test_sources_can_be_given_on_the_command_line_alone():
    sources = load(TrainConfig, ["stream.sources.mine.shards=DIR"]).stream.sources
    assert [(source.name, source.shards) for source in sources] == [("mine", ["DIR"])]


def test_one_text_is_a_list_of_one(tmp_path):
    (tmp_path / "c.yaml").write_text("stream: {sources: [{name: a, shards: A, exclude: b.txt}]}")
    source = load(TrainConfig, [f"config={tmp_path}/c.yaml", "stream.sources.a.labels=Dog"]).stream.sources[0]
    assert (source.shards, source.exclude, source.labels) == (["A"], ["b.txt"], ["Dog"])


@pytest.mark.parametrize(
    ("argument", "shards"),
    [
        ("=", []),
        ("=2024", ["2024"]),
        ("=[A,B]", ["A", "B"]),
        ("=~/a", [str(Path.home() / "a")]),
        ("=s3://b/c", ["s3://b/c"]),
    ],
)
def test_folders_of_a_source_on_the_command_line(argument, shards):
    assert load(TrainConfig, [f"stream.sources.mine.shards{argument}"]).stream.sources[0].shards == shards
