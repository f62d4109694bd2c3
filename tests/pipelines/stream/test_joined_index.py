"""One source of several folders: all of their clips, each once in an epoch, local or remote, pickled or not."""

import pickle
from collections import Counter

import pytest
from flaky_http import serve_flaky
from tiny_shards import write_data_set

from configs.errors import UsageError
from configs.schema import AugmentConfig, StreamConfig, StreamSourceConfig
from pipelines.modalities.modality import MemberKeys, StoredClip
from pipelines.stream.index import DatasetIndex
from pipelines.stream.joined_index import JoinedIndex
from pipelines.stream.loader import open_stream


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("parts")
    return [
        write_data_set(root / "large", [6, 6, 6, 6]),
        write_data_set(root / "small", [4, 4], prefix="other"),
    ]


def config(*sources: list[str], **settings) -> StreamConfig:
    listed = [StreamSourceConfig(name=f"s{number}", shards=folders) for number, folders in enumerate(sources)]
    sizes = {"image_size_px": 16, "clip_duration_s": 0.4, "num_workers": 0, "lanes": 1, "shuffle_window_clips": 8}
    quiet = AugmentConfig(audio_splice_max_s=0.0, time_mask_probability=0.0)
    return StreamConfig(sources=listed, augment=quiet, **(sizes | settings))


def ids(stream_config: StreamConfig, steps: int, batch_size: int = 8) -> list[str]:
    batches = open_stream(stream_config, 0, batch_size).batches()
    return [id for _, batch in zip(range(steps), batches, strict=False) for id in batch.id]


def test_clips_of_joined_folders_are_those_of_the_parts_one_after_the_other(folders):
    parts = [DatasetIndex.open(folder) for folder in folders]
    joined = pickle.loads(pickle.dumps(JoinedIndex(parts)))
    assert (joined.clips, len(joined.shards)) == (32, 6)
    assert [shard.first_clip for shard in joined.shards] == [0, 6, 12, 18, 24, 28]
    expected = [(part, clip) for part in parts for clip in range(part.clips)]
    for clip, (part, number) in enumerate(expected):
        assert joined.id(clip) == part.id(number)
        assert joined.members(clip) == part.members(number)
        assert joined.read(clip, "json") == part.read(number, "json")
        assert joined.labels(clip) == part.labels(number)
        assert StoredClip(joined, clip, MemberKeys()).data_set == str(part.folder)
        shard = joined.shards[joined.shard_of(clip)]
        assert shard.first_clip <= clip < shard.first_clip + shard.clips


def test_an_epoch_has_every_clip_of_every_folder_once(folders):
    counts = Counter(ids(config([str(folder) for folder in folders]), steps=4))
    assert len(counts) == 32 and set(counts.values()) == {1}


def test_a_source_of_two_folders_has_the_weight_of_a_source(folders, tmp_path):
    third = write_data_set(tmp_path / "third", [8, 8], prefix="third")
    drawn = ids(config([str(folder) for folder in folders], [str(third)]), steps=8)
    assert sum(id.startswith("third") for id in drawn) == 32


def test_remote_folders_are_cached_and_give_the_same_clips(folders, tmp_path):
    local = ids(config([str(folder) for folder in folders]), steps=4)
    with serve_flaky(folders[0]) as server:
        mixed = [server.address, str(folders[1])]
        assert ids(config(mixed, cache_dir=str(tmp_path)), steps=4) == local
    assert sorted(path.name for path in tmp_path.rglob("*.tar")) == [f"train-00000{n}.tar" for n in range(4)]


@pytest.mark.parametrize("sources", [([0, 0],), ([0, 1], [0]), ([1], [0, 1])])
def test_the_same_folder_twice_is_refused(folders, sources):
    twice = [[str(folders[number]) for number in numbers] for numbers in sources]
    with pytest.raises(UsageError, match=r"s\d\): .*(large|small) is the same data set as .*\1 of stream.sources.0"):
        open_stream(config(*twice), 0, 8)


def test_a_folder_with_another_sample_rate_is_named_at_the_start(folders, tmp_path):
    other = write_data_set(tmp_path / "slow", [6], rate_hz=8000, prefix="slow")
    with pytest.raises(UsageError, match=r"^[^,]*slow.*8000"):
        open_stream(config([str(folders[0]), str(other)]), 0, 8)
