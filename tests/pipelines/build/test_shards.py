"""One shard and its decoding process: the content of the tar, crashes of the decoder, and limits on a clip."""

import contextlib
import hashlib
import io
import json
import os
import signal
import tarfile
import threading
import time

import numpy as np
import pytest
import simplejpeg
import soundfile
from tiny_media import write_video

from configs.atomic_write import atomic_open, temporary_path
from configs.schema import DecodeConfig
from pipelines.build import decode_worker
from pipelines.build.build_spec import BuildSpec
from pipelines.build.decode_worker import DecodingProcess, Stopped
from pipelines.build.row_table import write_rows
from pipelines.build.shards import build_shard
from pipelines.manifest import Clip, RejectedClip
from pipelines.modalities.log_mel import log_mel
from pipelines.storage import LocalFolder

SETTINGS = DecodeConfig(frames_per_clip=3, short_side_px=48, cpu_limit_s=20)


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    root = tmp_path_factory.mktemp("media")
    write_video(root / "good.mp4", events_s=(0.5,))
    write_video(root / "mute.mp4", audio=False)
    write_video(root / "long.mp4", duration_s=20.0, fps=25, size_px=(640, 480))
    return root


@pytest.fixture
def process(media):
    process = DecodingProcess(media, SETTINGS)
    yield process
    process.stop()


def _build(media, out, rows, process, on_clips=lambda *_: None, **changes) -> None:
    """Shard 0 of a data set of these rows."""
    out.mkdir(exist_ok=True)
    table = write_rows(rows, out.parent / "rows.jsonl", seed=0, rows_per_shard=3)
    spec = BuildSpec(
        **{"root": media, "out": LocalFolder(out), "split": "train", "decode": SETTINGS, "build_hash": "r"} | changes
    )
    build_shard(spec, 0, table.of_shard(0), process, on_clips)


def _clips(count, media="good.mp4"):
    return [Clip(id=f"c{number}", media=media, labels=("a",), text="t") for number in range(count)]


def test_shard_matches_its_index(tmp_path, media, process):
    progress = []
    rows = [*_clips(2), Clip(id="mute", media="mute.mp4")]
    _build(media, tmp_path / "out", rows, process, lambda *done: progress.append(done))
    tar = tmp_path / "out/train-000000.tar"
    entry = json.loads(tar.with_suffix(".json").read_text())
    data = tar.read_bytes()
    assert (entry["name"], entry["clips"], entry["size_bytes"], entry["sha256"]) == (
        "train-000000",
        2,
        len(data),
        hashlib.sha256(data).hexdigest(),
    )
    assert [(r["id"], r["reason"]) for r in entry["rejected"]] == [("mute", "no_audio")]
    assert sorted(progress) == [(1, False), (1, False), (1, True)]
    for clip in entry["members"]:
        members = {name: data[offset : offset + size] for name, (offset, size) in clip["files"].items()}
        assert list(members) == ["json", "0.jpg", "1.jpg", "2.jpg", "flac"]
        metadata = json.loads(members["json"])
        waveform, rate_hz = soundfile.read(io.BytesIO(members["flac"]))
        assert (metadata["id"], metadata["labels"], metadata["text"]) == (clip["id"], ["a"], "t")
        assert clip["labels"] == ["a"]
        assert (metadata["samples"], metadata["sample_rate_hz"]) == (len(waveform), rate_hz) == (32000, 16000)
        assert len(metadata["frame_times_s"]) == 3
        assert simplejpeg.decode_jpeg(members["2.jpg"]).shape == (48, 64, 3)
    with tarfile.open(tar) as opened:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in opened} == {(0, 0, 0, "", "", 0o644)}


def test_both_audio_formats_are_lossless(media):
    stored = {}
    for kind in ("flac", "wav"):
        process = DecodingProcess(media, DecodeConfig(frames_per_clip=1, audio_format=kind))
        members = process.encode(Clip(id="a", media="good.mp4"))
        stored[kind], _ = soundfile.read(io.BytesIO(members[kind]), dtype="int16")
        process.stop()
    assert np.array_equal(stored["flac"], stored["wav"]) and np.abs(stored["wav"]).max() > 20000


def test_log_mel_is_stored_as_float16(media):
    process = DecodingProcess(media, DecodeConfig(frames_per_clip=1, log_mel=True))
    members = process.encode(Clip(id="a", media="good.mp4"))
    process.stop()
    waveform, rate_hz = soundfile.read(io.BytesIO(members["flac"]), dtype="float32")
    mel = np.load(io.BytesIO(members["mel.npy"]), allow_pickle=False)
    # 2 s: one frame of 25 ms each 10 ms; the last two windows end after the audio
    assert (mel.dtype, mel.shape) == (np.float16, (200, 128))
    assert np.abs(mel - log_mel(np.pad(waveform, (0, 240)), rate_hz)).max() < 0.01
    assert np.abs(mel[:198] - log_mel(waveform, rate_hz)).max() < 0.02


def test_log_mel_of_a_short_waveform_is_empty_and_that_of_a_tone_peaks_at_its_frequency():
    assert log_mel(np.zeros(100, np.float32), 16000).shape == (0, 128)
    tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000).astype(np.float32)
    edges = 1127 * np.log(1 + np.array([20, 8000]) / 700)  # Kaldi's mel scale, 20 Hz to Nyquist
    expected = (1127 * np.log(1 + 1000 / 700) - edges[0]) / (edges[1] - edges[0]) * 129 - 1
    assert abs(log_mel(tone, 16000).mean(axis=0).argmax() - expected) <= 1


def test_complete_shard_is_kept_and_a_damaged_one_is_rebuilt_to_the_same_bytes(tmp_path, media, process):
    tar, index = tmp_path / "out/train-000000.tar", tmp_path / "out/train-000000.json"
    _build(media, tmp_path / "out", _clips(3), process)
    first, written_ns = (tar.read_bytes(), index.read_bytes()), tar.stat().st_mtime_ns
    _build(media, tmp_path / "out", _clips(3), process)
    assert tar.stat().st_mtime_ns == written_ns

    def flip():
        data = bytearray(tar.read_bytes())
        data[2000] ^= 1
        tar.write_bytes(data)

    damages = (
        tar.unlink,
        index.unlink,
        flip,
        lambda: os.truncate(tar, 5000),
        lambda: index.write_text("{"),
        lambda: index.write_text("[]"),
    )
    for damage in damages:
        damage()
        _build(media, tmp_path / "out", _clips(3), process)
        assert (tar.read_bytes(), index.read_bytes()) == first


def test_shard_with_another_build_hash_is_rebuilt(tmp_path, media, process):
    _build(media, tmp_path / "out", _clips(1), process, build_hash="old")
    _build(media, tmp_path / "out", _clips(1), process, build_hash="new")
    assert json.loads((tmp_path / "out/train-000000.json").read_text())["recipe"] == "new"


def test_atomic_open_leaves_nothing_after_an_error(tmp_path):
    temporary_path(tmp_path / "a").write_text("leftover of a killed build")
    with pytest.raises(RuntimeError), atomic_open(tmp_path / "a") as file:
        file.write(b"half")
        assert not (tmp_path / "a").exists()
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with atomic_open(tmp_path / "a") as file:
        file.write(b"whole")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"whole")]


def test_clip_is_retried_after_its_process_was_killed_once(process):
    clip = Clip(id="a", media="good.mp4")
    before = process.encode(clip)
    os.kill(process._worker[0].pid, signal.SIGKILL)
    assert process.encode(clip) == before


def test_clip_that_crashes_its_process_twice_is_rejected(process):
    stop = threading.Event()

    def kill_decoder():
        while not stop.is_set():
            worker = process._worker
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                if worker is not None:
                    os.kill(worker[0].pid, signal.SIGSEGV)
            time.sleep(0.001)

    killer = threading.Thread(target=kill_decoder)
    killer.start()
    with pytest.raises(RejectedClip) as raised:
        process.encode(Clip(id="a", media="long.mp4"))
    stop.set()
    killer.join()
    assert (raised.value.reason, raised.value.detail) == ("crashed", "the process ended with SIGSEGV")
    assert process.encode(Clip(id="a", media="good.mp4"))


def test_clip_over_the_cpu_limit_is_rejected(media, monkeypatch):
    monkeypatch.setattr(decode_worker, "_WALL_PER_CPU_TIME", 1000)  # 0.02 s of CPU may take long if busy
    process = DecodingProcess(media, DecodeConfig(cpu_limit_s=0.02))
    with pytest.raises(RejectedClip) as raised:
        process.encode(Clip(id="a", media="long.mp4"))
    process.stop()
    assert raised.value.reason == "timed_out" and "0.02 s of CPU time" in raised.value.detail


def test_clip_whose_process_does_not_answer_is_rejected(media):
    process = DecodingProcess(media, DecodeConfig(cpu_limit_s=0.1))  # and one second of wall time
    stopped = set()
    done = threading.Event()

    def freeze():
        while not done.is_set():
            worker = process._worker
            if worker is not None and worker[0].pid not in stopped:
                stopped.add(worker[0].pid)
                os.kill(worker[0].pid, signal.SIGSTOP)
            time.sleep(0.001)

    freezer = threading.Thread(target=freeze)
    freezer.start()
    with pytest.raises(RejectedClip) as raised:
        process.encode(Clip(id="a", media="long.mp4"))
    done.set()
    freezer.join()
    process.stop()
    assert (raised.value.reason, raised.value.detail) == ("timed_out", "no answer within 1 s")
    assert len(stopped) == 2


def test_unexpected_exception_is_named_in_the_rejection(media):
    # a format that the command refuses
    process = DecodingProcess(media, DecodeConfig(frames_per_clip=1, audio_format="opus"))
    with pytest.raises(RejectedClip) as raised:
        process.encode(Clip(id="a", media="good.mp4"))
    process.stop()
    assert raised.value.reason == "failed" and "ValueError" in raised.value.detail


def test_stopped_process_abandons_its_clip(process):
    timer = threading.Timer(0.05, process.stop)
    timer.start()
    with pytest.raises(Stopped):
        for _ in range(1000):
            process.encode(Clip(id="a", media="long.mp4"))
    timer.join()
