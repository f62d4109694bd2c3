"""The stream across processes: the same bits for any number of workers, the same ids for any number of ranks."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from paths import ROOT
from tiny_shards import write_data_set
from tiny_stream import assert_same_bits, stream_config

from configs.errors import UsageError
from pipelines.stream.loader import open_stream

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    return [
        write_data_set(root / "a", [12, 10, 11, 10], changes={5: {"flac": b"x"}}),
        write_data_set(root / "b", [10] * 4, prefix="other"),
    ]


def _config(folders, **settings):
    return stream_config({folder.name: folder for folder in folders}, **settings)


def _batches(folders, count, rank=0, world_size=1, start_step=0, batch_size=12, **settings):
    stream = open_stream(_config(folders, **settings), 0, batch_size)
    batches = stream.batches(rank, world_size, start_step)
    return [batch.to("cpu") for _, batch in zip(range(count), batches, strict=False)]


@pytest.mark.parametrize("num_workers", [1, 3])
def test_batches_are_bit_identical_for_any_number_of_workers_and_preserve_torchs_random_state(folders, num_workers):
    expected = _batches(folders, 7)
    before = torch.random.get_rng_state()
    found = _batches(folders, 7, num_workers=num_workers, prefetch_factor=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    for batch, other in zip(expected, found, strict=True):
        assert_same_bits(batch, other)
    assert sum(batch.rejected["bad_audio"] for batch in expected) > 0


def test_batches_are_bit_identical_for_any_number_of_threads(folders):
    large = {"image_size_px": 224, "batch_size": 2}
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        two = _batches(folders, 2, **large)
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        one = _batches(folders, 2, **large)
    finally:
        torch.set_num_threads(threads)
    for batch, other in zip(one, two, strict=True):
        assert_same_bits(batch, other)


def test_ranks_together_hold_the_global_batch_for_any_world_size_and_start_step(folders):
    expected = _batches(folders, 6)
    for world_size, start_step in ((2, 0), (4, 2), (3, 1)):
        count = 6 - start_step
        ranks = [_batches(folders, count, rank, world_size, start_step) for rank in range(world_size)]
        for number, parts in enumerate(zip(*ranks, strict=True)):
            full = expected[start_step + number]
            rows = {position: (part, row) for part in parts for row, position in enumerate(part.position)}
            assert sorted(rows) == full.position
            for row, position in enumerate(full.position):
                part, at = rows[position]
                assert part.id[at] == full.id[row]
                assert torch.equal(part.frames[at], full.frames[row])
                assert torch.equal(part.audio[at], full.audio[row])
            assert sum(sum(part.rejected.values()) for part in parts) == sum(full.rejected.values())


def test_fingerprint_covers_everything_the_order_depends_on(folders):
    def fingerprint(folders=folders, seed=0, batch_size=12, **settings):
        return open_stream(_config(folders, **settings), seed, batch_size).fingerprint

    first = fingerprint()
    assert first["lanes"] == 4
    assert first["sources"]["b"]["number"] == 1
    assert fingerprint(num_workers=3, prefetch_factor=9) == first
    for other in (
        fingerprint(seed=1),
        fingerprint(batch_size=8),
        fingerprint(lanes=2),
        fingerprint(shuffle_window_clips=9),
        fingerprint(folders[::-1]),
        fingerprint(folders[:1]),
    ):
        assert other != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: setattr(c, "sources", []), ["stream.sources is empty"]),
        (
            lambda c: setattr(c.sources[1], "shards", c.sources[0].shards),
            ["stream.sources.1 (b)", "is the same data set as", "of stream.sources.0", "weight="],
        ),
        (lambda c: setattr(c.sources[1], "name", "a"), ["stream.sources.1 (a)", "same name as stream.sources.0"]),
        (lambda c: setattr(c.sources[1], "weight", -1.0), ["source b", "weight=-1.0"]),
        (lambda c: setattr(c.sources[0], "shards", ["nowhere"]), ["nowhere: no such folder"]),
        (lambda c: setattr(c, "sample_rate_hz", 8000), ["16000 Hz", "stream.sample_rate_hz=8000"]),
        (
            lambda c: setattr(c.augment, "audio_splice_min_s", 0.4),
            ["stream.augment.audio_splice_min_s=0.4", "audio_splice_max_s=0.3"],
        ),
    ],
)
def test_invalid_setting_is_rejected_in_one_line_before_the_first_batch(folders, change, message):
    config = _config(folders)
    change(config)
    with pytest.raises(UsageError) as error:
        open_stream(config, 0, 12)
    assert all(part in str(error.value) for part in message)
    assert "\n" not in str(error.value)


def test_global_batch_size_not_divisible_by_world_size_is_rejected(folders):
    with pytest.raises(UsageError, match=r"global_batch_size=12 must be a multiple of the number of processes, 5"):
        next(open_stream(_config(folders), 0, 12).batches(0, 5))


def test_error_in_a_worker_is_one_line(tmp_path):
    folder = write_data_set(tmp_path / "a", [4, 4], changes={clip: {"flac": b"x"} for clip in range(4)})
    with pytest.raises(UsageError, match="no readable clip is left") as error:
        _batches([folder], 1, num_workers=1, batch_size=4)
    assert "\n" not in str(error.value)


def test_workers_import_nothing_of_the_model():
    heavy = {"model", "eval", "timm", "torchaudio", "accelerate", "omegaconf", "matplotlib"}
    code = f"import sys, pipelines.stream.dataset; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


ENDLESS = """
import signal, sys
from configs.schema import StreamConfig, StreamSourceConfig
from pipelines.stream.loader import open_stream
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config = StreamConfig(sources=[StreamSourceConfig(shards=[sys.argv[1]])], image_size_px=24, clip_duration_s=0.6)
    try:
        for batch in open_stream(config, 0, 4).batches():
            print(len(batch), flush=True)
    except KeyboardInterrupt:
        sys.exit("interrupted")
"""


def _parents():
    """Process id -> id of its parent, for every process that is not a zombie."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                found[int(stat.parent.name)] = int(parent)
    return found


def _descendants(pid, parents):
    return [d for child, parent in parents.items() if parent == pid for d in (child, *_descendants(child, parents))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kill", "message"), [(signal.SIGKILL, b""), (signal.SIGTERM, b""), (signal.SIGINT, b"interrupted")]
)
def test_workers_exit_silently_with_an_interrupted_run(folders, tmp_path, kill, message):
    script, errors = tmp_path / "endless.py", tmp_path / "errors"
    script.write_text(ENDLESS)
    with errors.open("wb") as stderr:
        run = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(script), str(folders[1])],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )
    with run.stdout:
        assert run.stdout.readline() == b"4\n"
        workers = _descendants(run.pid, _parents())
        assert len(workers) >= 3
        # A terminal sends Ctrl-C to every process of the group; the other signals are sent to the run only.
        os.killpg(run.pid, kill) if kill == signal.SIGINT else run.send_signal(kill)
        deadline = time.monotonic() + 60
        while _parents().keys() & set(workers) and time.monotonic() < deadline:
            run.stdout.read1()
            time.sleep(0.05)
    run.wait(timeout=60)
    assert not _parents().keys() & set(workers)
    assert errors.read_bytes().strip() == message
