"""Third-party shards: writers of tars, the command that indexes them, and checks of the result."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import soundfile
import webdataset as wds
from paths import ROOT
from tiny_shards import encode_audio, jpeg, tone
from tiny_stream import SHORT_AUGMENT
from webdataset.tariterators import group_by_keys, tar_file_iterator

from configs.cli import run
from configs.schema import AugmentConfig, IndexConfig, InspectConfig, StreamConfig, StreamSourceConfig, VerifyConfig
from pipelines.inspect.__main__ import main as inspect_main
from pipelines.stream.index import DatasetIndex, main
from pipelines.stream.loader import open_stream
from pipelines.verify import main as verify_main

TYPES = ("jpg", "png", "flac", "wav", "opus", "npy", "json")
WRITTEN = {"manifest.json", "stats.json", "rejected.jsonl"}


def write_tar(path: Path, members: list[tuple[str | tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = member.size or len(data)
            tar.addfile(member, io.BytesIO(data) if member.isreg() else None)
    return path


def write_samples(folder: Path, samples: list[dict], **settings) -> Path:
    """Shards of three samples each, written by webdataset's ShardWriter."""
    folder.mkdir(parents=True)
    with wds.ShardWriter(str(folder / "%05d.tar"), maxcount=3, verbose=0, **settings) as writer:
        for sample in samples:
            writer.write(sample)
    return folder


def sample(number: int, key: str = "{:09d}", **more) -> dict:
    return {
        "__key__": key.format(number),
        "jpg": jpeg(3 * number),
        "flac": encode_audio(tone(number)),
        "json": {"labels": []},
        **more,
    }


def opus(waveform: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, 16000, format="OGG", subtype="OPUS")
    return buffer.getvalue()


def png(value: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", (32, 32), value).save(buffer, "PNG")
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def member_bytes(*members) -> bytes:
    """A tar up to its end marker."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        return buffer.getvalue()[: tar.offset]


CLIP = [("0.jpg", jpeg(0)), ("0.flac", encode_audio(tone(0)))]
BEGIN = member_bytes(*CLIP)
END = bytes(10240)


def index_shards(folder, capsys, *settings) -> tuple[int, str, str]:
    """Run the command; returns exit code, output and error line."""
    code = run(IndexConfig, "", main, [str(folder), *settings], positional=("dir",))
    out, err = capsys.readouterr()
    return code, out, "\n".join(line for line in err.splitlines() if line.startswith("error"))


def assert_reads_as_stock_webdataset_does(folder: Path) -> DatasetIndex:
    index = DatasetIndex.open(folder)
    stock = []
    for path in sorted(folder.glob("*.tar")):
        with path.open("rb") as file:
            for found in group_by_keys({**member, "__url__": path.name} for member in tar_file_iterator(file)):
                indexed = {name: data for name, data in found.items() if name.rpartition(".")[2] in TYPES}
                stock += [{"__key__": found["__key__"], **indexed}] if indexed else []
    assert [index.id(clip) for clip in range(index.clips)] == [s["__key__"] for s in stock]
    for clip, expected in enumerate(stock):
        assert {name: index.read(clip, name) for name in index.members(clip)} == {
            k: v for k, v in expected.items() if k != "__key__"
        }
    return index


def assert_verifies(folder: Path, capsys) -> None:
    code = verify_main(VerifyConfig(), str(folder))
    assert code == 0, capsys.readouterr().out
    code = inspect_main(InspectConfig(clips=3), str(folder))
    assert code == 0, capsys.readouterr().out
    capsys.readouterr()


def batches(folder: Path, count: int, **source):
    augment = AugmentConfig(**SHORT_AUGMENT)
    sources = [StreamSourceConfig(shards=[str(folder)], **source)]
    config = StreamConfig(
        sources=sources,
        image_size_px=24,
        clip_duration_s=0.5,
        num_workers=0,
        shuffle_window_clips=8,
        lanes=2,
        augment=augment,
        max_error_rate=0.0,
    )
    stream = open_stream(config, 0, 2)
    return [batch.to("cpu") for _, batch in zip(range(count), stream.batches(), strict=False)]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def command(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "pipelines.stream.index", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )
