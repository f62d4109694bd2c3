"""Stock webdataset pipelines over our shards: the clips and tensors of our reader, in any number of processes."""

import gzip
import json
import pickle
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
import webdataset as wds
from flaky_http import serve_flaky
from paths import ROOT
from tiny_foreign_shards import npy, write_tar
from tiny_s3 import serve_s3
from tiny_shards import encode_audio, tone, write_data_set
from tiny_stream import SHORT_AUGMENT, assert_same_bits

from configs.errors import CommandFailed, UsageError
from configs.schema import AugmentConfig
from pipelines.modalities.modality import ExampleSpec, MemberKeys, UnreadableClip
from pipelines.storage import open_folder
from pipelines.stream import remote_retry
from pipelines.stream.index import DatasetIndex
from pipelines.stream.reader import ClipReader
from pipelines.stream.webdataset import collate, decode_sample, examples, samples, shard_urls

SPEC = ExampleSpec(24, 9600, 16000)
CLIPS = [5, 4, 6, 5]
RUN_RANK = """
import json, sys
import webdataset as wds
from pipelines.modalities.modality import ExampleSpec
from pipelines.stream.webdataset import collate, examples
dataset = examples(sys.argv[1], ExampleSpec(24, 9600, 16000), shuffle_clips=4).batched(3, collation_fn=collate)
loader = wds.WebLoader(dataset, batch_size=None, num_workers=2)
print(json.dumps([batch.id for batch in loader]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set whose path has the characters that a URL would end at."""
    return str(write_data_set(tmp_path_factory.mktemp("shards") / "a b?c#d", CLIPS))


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(remote_retry, "SHORT_RETRY", remote_retry.Retries(3, 0.0, 0.01))


def _changed(tmp_path, members: dict[str, bytes | None], clips: int = 3) -> str:
    """A data set of one shard whose second clip has other members."""
    return str(write_data_set(tmp_path / "set", [clips], changes={1: members}))


def _run_rank(folder: str, environment: dict[str, str]) -> list[str]:
    """Ids that one process with two workers reads."""
    command = [sys.executable, "-c", RUN_RANK, folder]
    done = subprocess.run(
        command, env=environment | {"PYTHONPATH": str(ROOT)}, cwd="/", capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [clip for batch in json.loads(done.stdout) for clip in batch]


def test_samples_are_all_members_of_all_clips_in_the_order_of_the_manifest(folder):
    index = DatasetIndex.open(folder)
    found = list(samples(folder))
    assert isinstance(samples(folder), wds.WebDataset)
    assert [sample["__key__"] for sample in found] == [index.id(clip) for clip in range(sum(CLIPS))]
    for clip, sample in enumerate(found):
        members = {name: data for name, data in sample.items() if not name.startswith("__")}
        assert members == {name: index.read(clip, name) for name in index.members(clip)}


def test_decoded_samples_hold_images_audio_and_metadata_as_our_reader_decodes_them(folder):
    reader = ClipReader(DatasetIndex.open(folder), 24, 1.0, 16000)
    for clip, sample in enumerate(samples(folder).map(decode_sample)):
        assert all(torch.equal(sample[f"{number}.jpg"], reader.frame(clip, number)) for number in range(2))
        assert np.array_equal(sample["flac"], reader.waveform(clip))
        assert sample["json"] == reader.metadata(clip)


def test_examples_are_bit_equal_to_the_evaluation_examples_of_our_reader(folder):
    reader = ClipReader(DatasetIndex.open(folder), 24, 0.6, 16000)
    batches = [batch.to("cpu") for batch in examples(folder, SPEC).batched(6, collation_fn=collate)]
    assert [len(batch) for batch in batches] == [6, 6, 6, 2]
    for number, batch in enumerate(batches):
        clips = range(6 * number, min(6 * number + 6, sum(CLIPS)))
        assert_same_bits(batch, collate([reader.evaluation_item(clip, 1) for clip in clips]).to("cpu"))


def test_every_clip_is_read_once_by_two_ranks_with_two_workers_each(folder):
    found = []
    for rank in range(2):
        environment = {"RANK": str(rank), "WORLD_SIZE": "2", "PATH": ""}
        found.append(_run_rank(folder, environment))
    index = DatasetIndex.open(folder)
    assert Counter(found[0] + found[1]) == Counter(index.id(clip) for clip in range(index.clips))
    first = {index.id(clip) for clip in range(index.clips) if index.shard_of(clip) % 2 == 0}
    assert set(found[0]) == first, "rank 0 reads shards 0 and 2, as webdataset.split_by_node deals them"


def test_a_rank_without_a_shard_raises_the_error_of_webdataset(folder, monkeypatch):
    monkeypatch.setenv("RANK", "4")
    monkeypatch.setenv("WORLD_SIZE", "5")
    with pytest.raises(ValueError, match="fewer shards than workers"):
        list(samples(folder))


def test_shuffled_order_depends_on_the_seed_and_changes_with_each_pass(folder):
    def order(dataset):
        return [sample["__key__"] for sample in dataset]

    stored, dataset = order(samples(folder)), samples(folder, shuffle_clips=8, seed=1)
    first, second = order(dataset), order(dataset)
    assert sorted(first) == sorted(second) == sorted(stored)
    assert len({tuple(stored), tuple(first), tuple(second), tuple(order(samples(folder, shuffle_clips=8)))}) == 4
    assert order(samples(folder, shuffle_clips=8, seed=1)) == first


def test_augmented_examples_are_spliced_masked_and_mixed_and_repeat_with_the_seed_of_torch(folder):
    augment = AugmentConfig(**SHORT_AUGMENT, quad_mixup_probability=0.5, time_mask_probability=0.5)

    def batch(seed):
        torch.manual_seed(seed)
        return next(iter(examples(folder, SPEC, augment=augment).batched(20, collation_fn=collate))).to("cpu")

    first = batch(0)
    assert_same_bits(first, batch(0))
    assert not torch.equal(first.frames, batch(1).frames)
    assert first.frames.shape == (20, 3, 24, 24) and first.audio.shape == (20, 9600)
    assert (first.image_weight == 0).any() and (first.audio_positive_weight == 0).any()
    masked = first.audio_mask.sum(dim=1) < 8000
    assert 2 < masked.sum() < 18 and not first.audio[~first.audio_mask].any()
    assert (first.audio_positive_weight[0] == 1).all(), "the first clip has no earlier one to mix in"


@pytest.mark.parametrize("name", ["pyd", "pth", "pkl", "meta.pickle", "x.pyd.gz", "PT"])
def test_members_that_may_be_pickles_raise_an_error_and_are_never_loaded(tmp_path, name):
    loaded = tmp_path / "loaded"

    class Trap:
        def __reduce__(self):
            return open, (str(loaded), "w")

    data = gzip.compress(pickle.dumps(Trap())) if name.endswith("gz") else pickle.dumps(Trap())
    folder = _changed(tmp_path, {name: data})
    for dataset in (samples(folder), samples(folder).map(decode_sample), examples(folder, SPEC)):
        with pytest.raises(ValueError, match=rf"train-000000.tar: clip0001.{name.lower()} may be a pickle"):
            list(dataset)
    skipped = samples(folder, handler=wds.ignore_and_continue).map(decode_sample)
    assert [sample["__key__"] for sample in skipped] == ["clip0000", "clip0002"]
    assert not loaded.exists()


def test_arrays_of_python_objects_are_not_unpickled(tmp_path):
    folder = _changed(tmp_path, {"mel.npy": npy(np.array([{}], dtype=object))})
    with pytest.raises(UnreadableClip, match="bad_array: clip clip0001: Object arrays cannot be loaded"):
        list(samples(folder).map(decode_sample))
    folder = str(write_data_set(tmp_path / "good", [1], changes={0: {"mel.npy": npy(np.arange(3.0))}}))
    assert next(iter(samples(folder).map(decode_sample)))["mel.npy"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("augment", [None, AugmentConfig(**SHORT_AUGMENT)])
@pytest.mark.parametrize(
    ("members", "reason"),
    [({"0.jpg": b"x", "1.jpg": b"x"}, "bad_image"), ({"flac": b"fLaCx"}, "bad_audio"), ({"flac": None}, "missing")],
)
def test_a_damaged_clip_raises_an_error_or_is_skipped_by_the_handler(tmp_path, augment, members, reason):
    folder = _changed(tmp_path, members)
    with pytest.raises(UnreadableClip, match=reason):
        list(examples(folder, SPEC, augment=augment))
    found = list(examples(folder, SPEC, augment=augment, handler=wds.ignore_and_continue))
    assert [example.id for example in found] == ["clip0000", "clip0002"]


def test_a_truncated_tar_raises_an_error(tmp_path):
    folder = write_data_set(tmp_path / "set", [3])
    tar = folder / "train-000000.tar"
    tar.write_bytes(tar.read_bytes()[:6000])
    with pytest.raises(Exception, match="unexpected end of data"):
        list(samples(str(folder)))


def test_keys_name_the_members_of_third_party_shards_and_log_mel_takes_the_place_of_the_waveform(tmp_path):
    changes = {0: {"mix.wav": encode_audio(tone(3), "wav"), "mel.npy": npy(np.zeros((40, 128), np.float16))}}
    folder = str(write_data_set(tmp_path / "set", [1], changes=changes))
    (example,) = examples(folder, SPEC, keys=MemberKeys("0.jpg", ".MIX.wav"))
    assert np.allclose(example.fields["waveform"]["samples"][:8000], tone(3), atol=1e-3)
    for augment in (None, AugmentConfig(**SHORT_AUGMENT)):
        (example,) = examples(folder, SPEC, modalities=("frames", "mel"), augment=augment)
        mel = example.fields["mel"]
        assert mel["audio"].shape == (60, 128) and mel["audio_mask"].shape == (60,)
    with pytest.raises(UnreadableClip, match=r"missing_member: clip clip0000 has no \.other\.wav"):
        list(examples(folder, SPEC, keys=MemberKeys("", "other.wav")))


def test_a_pickled_pipeline_reads_the_same_clips(folder):
    dataset = examples(folder, SPEC, shuffle_clips=4).batched(30, collation_fn=collate)
    assert_same_bits(*(next(iter(some)).to("cpu") for some in (dataset, pickle.loads(pickle.dumps(dataset)))))


def test_a_missing_shard_is_a_one_line_error(tmp_path):
    folder = write_data_set(tmp_path / "set", [3])
    (folder / "train-000000.tar").unlink()
    with pytest.raises(CommandFailed, match=r"train-000000.tar: the shard does not exist"):
        list(samples(str(folder)))


def test_wrong_settings_and_unfinished_data_sets_are_one_line_errors(tmp_path, folder):
    with pytest.raises(UsageError, match="audio at 16000 Hz, but stream"):
        list(examples(folder, SPEC._replace(sample_rate_hz=8000)))
    with pytest.raises(UsageError, match="audio at 16000 Hz"):
        decode_sample(next(iter(samples(folder))), sample_rate_hz=8000)
    with pytest.raises(UsageError, match=r"modalities=\['flow'\]: allowed are frames, waveform"):
        examples(folder, SPEC, modalities=("frames", "waveform", "flow"))
    for modalities in (("frames",), ("waveform",), ("frames", "waveform", "mel")):
        with pytest.raises(UsageError, match="must have frames, and either waveform or mel"):
            examples(folder, SPEC, modalities=modalities)
    write_tar(tmp_path / "unfinished/a.tar", [("a.jpg", b"x")])
    with pytest.raises(UsageError, match=r"has no manifest.json: it is unfinished"):
        shard_urls(str(tmp_path / "unfinished"))
    with pytest.raises(UsageError, match="has no clips"):
        samples(str(write_data_set(tmp_path / "empty", [])))


def test_a_web_server_gives_the_samples_of_the_local_folder_after_a_failed_answer(tmp_path):
    folder = write_data_set(tmp_path / "set", CLIPS)
    local = [sample | {"__url__": ""} for sample in samples(str(folder))]
    with serve_flaky(folder) as server:
        server.plan({"train-000001.tar": ["503"]})
        remote = list(samples(server.address))
        assert [sample | {"__url__": ""} for sample in remote] == local
        assert remote[0]["__url__"] == f"fsspec:{server.address}/train-000000.tar"
        server.plan({"train-000001.tar": ["503", "..."]})
        with pytest.raises(CommandFailed, match=r"tries in .*train-000001\.tar"):
            list(samples(server.address))


def test_worker_processes_read_s3(tmp_path, monkeypatch):
    folder = write_data_set(tmp_path / "set", CLIPS)
    with serve_s3("bucket") as environment:
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        remote = open_folder("s3://bucket/set")
        for name in ("manifest.json", *(f"train-{number:06d}.tar" for number in range(4))):
            with remote.atomic_open(name) as file:
                file.write((folder / name).read_bytes())
        read = _run_rank("s3://bucket/set", environment)
    assert sorted(read) == [f"clip{number:04d}" for number in range(sum(CLIPS))]
