"""Batches per second of our loader and of the stock pipeline over the same shards (pipelines.stream.webdataset).

`python tests/bench/bench_webdataset.py [rounds]`: one worker each, in turns, batches of 32 at 224 px with and without
the default augmentation; the shards of bench_stream.py (ten JPEGs of about 40 kB and 10 s of audio a clip). The stock
pipeline reads every member of a tar and decodes those that an example needs. Clips per second after the first batch;
the ratio is the median over the rounds of the ratio within a round.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support"), str(ROOT / "tests/bench")]

BATCH, MIN_CLIPS = 32, 320


def rate(batches: Iterator) -> float:
    next(batches)
    began_s, clips = time.perf_counter(), 0
    for batch in batches:
        clips += len(batch)
        if clips >= MIN_CLIPS:
            break
    return clips / (time.perf_counter() - began_s)


def our_rate(folder: Path, augmented: bool) -> float:
    from configs.schema import StreamConfig, StreamSourceConfig
    from pipelines.stream.loader import open_stream

    sources = [StreamSourceConfig(name="a", shards=[str(folder)])]
    config = StreamConfig(sources=sources, num_workers=1, **({} if augmented else {"augment": unaugmented()}))
    return rate(open_stream(config, 0, BATCH).batches())


def stock_rate(folder: Path, augmented: bool) -> float:
    import webdataset as wds

    from configs.schema import AugmentConfig, StreamConfig
    from pipelines.modalities.modality import ExampleSpec
    from pipelines.stream.webdataset import collate, examples

    defaults = StreamConfig(sources=[])
    rate_hz = defaults.sample_rate_hz
    spec = ExampleSpec(defaults.image_size_px, round(defaults.clip_duration_s * rate_hz), rate_hz)
    dataset = examples(str(folder), spec, augment=AugmentConfig() if augmented else None, shuffle_clips=64)
    loader = wds.WebLoader(
        dataset.batched(BATCH, collation_fn=collate, partial=False),
        batch_size=None,
        num_workers=1,
        multiprocessing_context="forkserver",
    )
    return rate(iter(loader))


def unaugmented():
    from configs.schema import AugmentConfig

    return AugmentConfig(
        crop_scale_min=1,
        flip_probability=0,
        color_jitter=0,
        grayscale_probability=0,
        quad_mixup_probability=0,
        audio_splice_max_s=0,
        time_mask_probability=0,
    )


def main(rounds: int) -> None:
    from bench_stream import write_shards

    with tempfile.TemporaryDirectory() as scratch:
        print(f"{'':<24}{'stock pipeline':>15}{'our loader':>12}{'ours/stock':>12}   clips/s")
        for kind in ("flac", "wav"):
            folder = write_shards(Path(scratch), kind)
            for augmented in (False, True):
                pairs = [(stock_rate(folder, augmented), our_rate(folder, augmented)) for _ in range(rounds)]
                stock, ours = (statistics.median(values) for values in zip(*pairs, strict=True))
                ratio = statistics.median(ours / stock for stock, ours in pairs)
                name = f"{kind}, {'augmented' if augmented else 'not augmented'}"
                print(f"{name:<24}{stock:>15.0f}{ours:>12.0f}{ratio:>12.2f}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
