"""Clips per second of the streaming loader and of others: same shards, one worker each, in turns.

`python tests/bench/bench_stream.py [rounds]`. First decoding alone, by ours and stock webdataset, with the same
decoders; then full training batches with the default augmentation, beside stock webdataset and Megatron Energon with
torchvision (peers.py) and beside decoding alone. `worker` is what one loader worker makes; `with device` adds the time
that the device's part takes on one core of this machine, as if the worker did that too.

A clip is ten JPEGs of about 40 kB (of which training uses one) and 10 s of audio as FLAC or PCM16, in batches of 32.
`stock` is webdataset as its documentation has it, `.decode(...)`, which decodes every member; `lazy` decodes one image,
by hand. Both read all members of a tar. Targets of decoding alone: 2 times stock with FLAC, 2.5 with PCM16. Of training
batches: 3 times stock with PCM16, 2.2 with FLAC, 2 times Energon with FLAC, 0.8 of decoding alone; 1.5 times stock with
the device's part. bench_data_time.py simulates a training that takes 400 clips/s.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]

from peers import Pick, decode_image, decode_member, decode_sound, webdataset_loader  # noqa: E402

CLIPS, SHARDS, BATCH = 150, 4, 32
WANTED = {"flac": 2.0, "wav": 3.0}


def write_shards(folder: Path, kind: str) -> Path:
    import simplejpeg
    from tiny_shards import encode_audio, write_data_set

    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 255, (10, 33, 58, 3)).astype(np.float32)
    pictures = {}
    for number, picture in enumerate(coarse):
        large = np.kron(picture, np.ones((8, 8, 1))) + draw.normal(0, 5, (264, 464, 3))
        pictures[f"{number}.jpg"] = simplejpeg.encode_jpeg(
            np.ascontiguousarray(large.clip(0, 255).astype(np.uint8)), quality=90
        )
    voice = np.cumsum(draw.normal(0, 0.01, 164_200)).astype(np.float32)
    waveform = 0.5 * voice / np.abs(voice).max() + draw.normal(0, 0.01, len(voice)).astype(np.float32)
    members = {"flac": None, **pictures, kind: encode_audio(waveform, kind)}
    print(
        f"{kind}: a JPEG of {len(pictures['0.jpg']) / 1e3:.0f} kB, a sound of {len(members[kind]) / 1e3:.0f} kB",
        flush=True,
    )
    return write_data_set(folder / kind, [CLIPS] * SHARDS, changes=dict.fromkeys(range(CLIPS * SHARDS), members))


class Ours:
    """The same decoding by our index and order."""

    def __init__(self, folder: Path, kind: str) -> None:
        from pipelines.stream.index import DatasetIndex
        from pipelines.stream.sampler import DeterministicSampler, OrderSource

        self.index, self.kind = DatasetIndex.open(folder), kind
        self.order = DeterministicSampler(
            [OrderSource("a", self.index.fingerprint, 1.0, (CLIPS,) * SHARDS)], 0, 64, 2000, BATCH
        )

    def __getitem__(self, position: int) -> tuple:
        clip = self.order.assigned(position)
        return decode_image(self.index.read(clip, f"{position % 10}.jpg")), decode_sound(
            self.index.read(clip, self.kind)
        )


def rate(loader, size=lambda batch: len(batch[0])) -> float:
    """Clips a second after the first batch."""
    batches = iter(loader)
    next(batches)
    began_s, clips = time.perf_counter(), 0
    for batch in batches:
        clips += size(batch)
        if clips >= CLIPS * SHARDS - 2 * BATCH:
            break
    return clips / (time.perf_counter() - began_s)


def stock_rate(folder: Path, kind: str, lazy: bool) -> float:
    import webdataset
    from torch.utils.data import DataLoader

    tars = sorted(map(str, folder.glob("*.tar")))
    data = webdataset.WebDataset(tars, shardshuffle=len(tars), seed=0).shuffle(100)
    data = (data if lazy else data.decode(decode_member)).map(Pick(kind, lazy))
    return rate(DataLoader(data, batch_size=BATCH, num_workers=1, multiprocessing_context="forkserver"))


def our_rate(folder: Path, kind: str) -> float:
    from torch.utils.data import DataLoader

    return rate(
        DataLoader(
            Ours(folder, kind),
            batch_size=BATCH,
            sampler=range(CLIPS * SHARDS),
            num_workers=1,
            multiprocessing_context="forkserver",
        )
    )


def training_rates(folder: Path, kind: str) -> dict[str, float]:
    """Clips a second of full training batches, augmented as by default, of one worker each."""
    import torch

    rates = {
        "stock": rate(webdataset_loader(folder, kind, lazy=False, batch_size=BATCH)),
        "lazy": rate(webdataset_loader(folder, kind, lazy=True, batch_size=BATCH)),
        "energon": energon_rate(folder),
        "decoding": our_rate(folder, kind),
    }
    batches = training_batches(folder, num_workers=1)
    rates["worker"] = rate(batches, size=len)
    batch = next(batches)
    torch.set_num_threads(1)
    device_s = min(cpu_seconds(lambda: batch.to("cpu")) for _ in range(8)) / BATCH
    return rates | {"with device": 1 / (1 / rates["worker"] + device_s)}


def training_batches(folder: Path, **settings):
    from configs.schema import StreamConfig, StreamSourceConfig
    from pipelines.stream.loader import open_stream

    config = StreamConfig(sources=[StreamSourceConfig(name="a", shards=[str(folder)])], **settings)
    return open_stream(config, 0, BATCH).batches()


def energon_rate(folder: Path) -> float:
    """NaN where the extra `bench` is not installed."""
    try:
        from peer_energon import energon_loader
    except ImportError:
        return float("nan")
    return rate(energon_loader(folder, BATCH), size=lambda batch: len(batch.frame))


def cpu_seconds(do) -> float:
    began_s = time.process_time()
    do()
    return time.process_time() - began_s


def print_training_rates(folders: dict[str, Path], rounds: int) -> None:
    names = ("stock", "lazy", "energon", "decoding", "worker", "with device")
    peers = names[:4]
    print(f"{'training batches':<18}{''.join(f'{name:>12}' for name in names)}   clips/s", flush=True)
    for kind, folder in folders.items():
        found = [training_rates(folder, kind) for _ in range(rounds)]
        medians = (statistics.median(rates[name] for rates in found) for name in names)
        print(f"{kind:<18}{''.join(f'{median:>12.0f}' for median in medians)}", flush=True)
        for ours in names[4:]:
            over = (statistics.median(rates[ours] / rates[peer] for rates in found) for peer in peers)
            print(f"  {ours + ' /':<16}{''.join(f'{ratio:>12.2f}' for ratio in over)}", flush=True)


def write_large_index(folder: Path, shards: int, clips: int) -> None:
    """The JSON files and empty tars (holes of their stated size) of a data set of many members."""
    folder.mkdir()
    entries = []
    for shard in range(shards):
        listed, at = [], 512
        for clip in range(clips):
            files = {}
            for name in ("json", *(f"{n}.jpg" for n in range(10)), "flac", "mel.npy"):
                files[name] = [at, 400]
                at += 1024
            listed.append(
                {"id": f"{shard:06d}{clip:05d}_{1000 * clip}", "labels": [f"label {clip % 500}"], "files": files}
            )
        entry = {"name": f"train-{shard:06d}", "clips": clips, "size_bytes": at, "sha256": f"{shard:064x}"}
        (folder / f"{entry['name']}.json").write_text(json.dumps(entry | {"members": listed, "rejected": []}))
        with (folder / f"{entry['name']}.tar").open("wb") as file:
            file.truncate(at)
        entries.append(entry)
    (folder / "manifest.json").write_text(json.dumps({"shards": entries}))


def open_large(folder: Path) -> dict[str, float]:
    """In a fresh process: seconds to open, memory beyond the imports, seconds to seek."""
    import torch.utils.data  # noqa: F401

    from pipelines.stream.index import DatasetIndex
    from pipelines.stream.sampler import DeterministicSampler, OrderSource

    own, mapped = resident_mb("RssAnon"), resident_mb("RssFile")
    began_s = time.perf_counter()
    index = DatasetIndex.open(folder)
    opened_s = time.perf_counter() - began_s
    order = DeterministicSampler(
        [OrderSource("a", index.fingerprint, 1.0, tuple(shard.clips for shard in index.shards))], 0, 64, 2000, 256
    )
    began_s = time.perf_counter()
    for step in (0, 10**6 + 7, 12_345_678):
        for position in order.positions(step, 3, 8):
            index.members(order.assigned(position))
    seek_s = (time.perf_counter() - began_s) / 3
    return {
        "open_s": opened_s,
        "seek_s": seek_s,
        "own": resident_mb("RssAnon") - own,
        "mapped": resident_mb("RssFile") - mapped,
    }


def first_batch_s(folder: Path, step: int) -> float:
    """Seconds to the first batch of a run resumed at a step, in a fresh process after its imports, with two workers."""
    import torch.utils.data  # noqa: F401

    from configs.schema import StreamConfig, StreamSourceConfig
    from pipelines.stream.loader import open_stream

    began_s = time.perf_counter()
    config = StreamConfig(sources=[StreamSourceConfig(name="a", shards=[str(folder)])], num_workers=2)
    next(iter(open_stream(config, 0, BATCH).batches(start_step=step)))
    return time.perf_counter() - began_s


def resident_mb(kind: str) -> float:
    """RssAnon is this process's own, RssFile mapped from files and shared with others."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) / 1024


def main(rounds: int) -> None:
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as scratch:
        print(f"{'':<8}{'stock':>8}{'lazy':>8}{'ours':>8}{'ours/stock':>12}{'wanted':>8}{'ours/lazy':>11}   clips/s")
        folders = {kind: write_shards(Path(scratch), kind) for kind in WANTED}
        for kind, wanted in WANTED.items():
            folder = folders[kind]
            rounds_of = [
                (stock_rate(folder, kind, lazy=False), stock_rate(folder, kind, lazy=True), our_rate(folder, kind))
                for _ in range(rounds)
            ]
            stock, lazy, ours = (statistics.median(values) for values in zip(*rounds_of, strict=True))
            over_stock, over_lazy = (
                statistics.median(found[2] / found[other] for found in rounds_of) for other in (0, 1)
            )
            print(
                f"{kind:<8}{stock:>8.0f}{lazy:>8.0f}{ours:>8.0f}{over_stock:>12.2f}{wanted:>8}{over_lazy:>11.2f}",
                flush=True,
            )
        print_training_rates(folders, rounds)
        with ProcessPoolExecutor(1, context) as pool:
            print(
                f"first batch of a run resumed at step 1,000,000: "
                f"{pool.submit(first_batch_s, folder, 10**6).result():.1f} s after the imports (target 5)"
            )
        folder = Path(scratch) / "large"
        write_large_index(folder, 2000, 1000)
        for when in ("table built", "table there"):
            with ProcessPoolExecutor(1, context) as pool:
                began_s = time.perf_counter()
                found = pool.submit(open_large, folder).result()
            print(
                f"26 million members, {when}: open {found['open_s']:.2f} s (target 2), "
                f"seek {found['seek_s']:.3f} s (target 1)"
            )
            print(
                f"  memory beyond the imports {found['own']:.0f} MB (target 100), and "
                f"{found['mapped']:.0f} MB of the table, shared by all processes"
            )
            print(f"  {time.perf_counter() - began_s:.1f} s with the imports")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
