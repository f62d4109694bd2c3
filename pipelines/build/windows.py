"""Cuts the files of a folder into windows (`source.window_s`, `source.stride_s`), each of which is a clip.

Window n starts n * stride_s seconds after the start of the file; stride_s=0 is window_s, so that windows follow each
other. The last window ends with the file. It is left out if it is shorter than half a window, or if the window before
it reaches the end of the file already; a file that is shorter than a window is one clip. The id of a clip is that of
its file with `_STARTMS`.

The rows of a build are known before it starts, so the header of each file is read first, in processes of their own; a
file whose header states no duration, such as a recording of a browser, is read to its end. A file whose duration cannot
be found is one clip, which is rejected with its reason when it is decoded. Each slice of a job array reads all headers.
"""

import itertools
import os
import queue
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from configs.schema import BuildConfig, DecodeConfig
from pipelines.build.decode_worker import DecodingProcess
from pipelines.manifest import MAX_ID_LENGTH, Clip, Rejected, RejectedClip

_BATCH = 256  # rows whose files are read ahead


def cut_into_windows(rows: Iterable[Clip | Rejected], config: BuildConfig) -> Iterator[Clip | Rejected]:
    """Replace each clip, which is a full file, by its windows; rejected rows pass.

    Raises:
        CommandFailed: the storage does not answer.
    """
    cores = len(os.sched_getaffinity(0))
    count = min(config.processes or cores, cores)  # with executor=ray, config.processes are those of the cluster
    workers = [DecodingProcess(Path(config.source.root), config.decode) for _ in range(count)]
    idle: queue.SimpleQueue[DecodingProcess] = queue.SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def duration_s(row: Clip | Rejected) -> float:
        if isinstance(row, Rejected):
            return 0.0
        worker = idle.get()
        try:
            return worker.run(_file_end_s, row)
        except RejectedClip:
            return 0.0
        finally:
            idle.put(worker)

    threads = ThreadPoolExecutor(count)
    source, rows = config.source, iter(rows)
    try:
        while batch := list(itertools.islice(rows, _BATCH)):
            for row, end_s in zip(batch, threads.map(duration_s, batch), strict=True):
                if isinstance(row, Rejected):
                    yield row
                else:
                    yield from (
                        _window(row, start_s, source.window_s)
                        for start_s in window_starts(end_s, source.window_s, source.stride_s)
                    )
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.stop()


def window_starts(duration_s: float, window_s: float, stride_s: float) -> Iterator[float]:
    """Start times of the windows of a file in seconds, rounded to milliseconds; the first is 0."""
    yield 0.0
    for number in itertools.count(1):
        start_s = round(number * (stride_s or window_s), 3)
        before_s = round((number - 1) * (stride_s or window_s), 3)
        if before_s + window_s >= duration_s or duration_s - start_s < window_s / 2:
            return
        yield start_s


def _window(clip: Clip, start_s: float, window_s: float) -> Clip:
    end = f"_{round(start_s * 1000)}"
    name, _, digest = clip.id.rpartition("-")  # safe_id, whose length is limited
    clip_id = f"{name[: MAX_ID_LENGTH - len(digest) - len(end) - 1]}-{digest}{end}"
    return replace(clip, id=clip_id, start_s=start_s, end_s=round(start_s + window_s, 3))


def _file_end_s(clip: Clip, root: Path, _: DecodeConfig) -> float:
    """The end of the later one of the video and the audio of a file, in seconds from its start."""
    from pipelines.build.decode.container import open_media, regular_file, time_base_s

    with open_media(regular_file(root, clip.media)) as container:
        zero_s = (container.start_time or 0) / 1e6
        streams = [*container.streams.video[:1], *container.streams.audio[:1]]
        units_s = {stream.index: time_base_s(stream) for stream in streams}
        if streams and all(stream.duration for stream in streams):
            return max(
                ((stream.start_time or 0) + (stream.duration or 0)) * units_s[stream.index] - zero_s
                for stream in streams
            )
        if container.duration:
            return container.duration / 1e6
        return max(
            (packet.pts + (packet.duration or 0)) * units_s[packet.stream_index] - zero_s
            for packet in container.demux(streams)
            if packet.pts is not None
        )
