"""Speed of one loader worker on a data set, measured in this process: `python -m pipelines.stream.worker_rate DIR`.

Prints a JSON object. Published sizes (224 px, 10 s), default augmentation; `pipelines.doctor` runs it.
"""

import contextlib
import json
import sys
import time

from configs.cli import run
from configs.errors import UsageError
from configs.schema import NoSettings, StreamConfig, StreamSourceConfig
from pipelines.stream.loader import Stream, open_stream

_BATCH_SIZE, _MIN_S, _MIN_BATCHES = 16, 5.0, 4


def measure(shards: str) -> dict[str, float]:
    """Measure for at least 5 s and 4 batches, after the first one.

    Args:
        shards: folder or URL.

    Returns:
        `clips_per_s`, and `cpu_fraction`, 0 to 1: what one worker takes of a core while it makes them.

    Raises:
        UsageError, CommandFailed: what `open_stream` and `Stream.batches` raise.
    """
    batches = _open(shards).batches()
    next(batches)  # opens files
    clips, worker_s, worker_cpu_s, count = 0, 0.0, 0.0, 0
    until_s = time.perf_counter() + _MIN_S
    while count < _MIN_BATCHES or time.perf_counter() < until_s:
        batch = next(batches)
        clips, count = clips + len(batch), count + 1
        worker_s, worker_cpu_s = worker_s + batch.worker_s, worker_cpu_s + batch.worker_cpu_s
    return {"clips_per_s": clips / worker_s, "cpu_fraction": min(worker_cpu_s / worker_s, 1.0)}


def _open(shards: str) -> Stream:
    """The stream of a data set, with log-mel where it stores no waveform."""
    sources = [StreamSourceConfig(name="measured", shards=[shards])]
    try:
        return open_stream(StreamConfig(sources=sources, num_workers=0), 0, _BATCH_SIZE)
    except UsageError:
        with contextlib.suppress(UsageError):
            return open_stream(StreamConfig(sources=sources, num_workers=0, audio="log_mel"), 0, _BATCH_SIZE)
        raise


def main(_: NoSettings, shards: str) -> None:
    """Print the measured values."""
    print(json.dumps(measure(shards)))


if __name__ == "__main__":
    sys.exit(run(NoSettings, __doc__, main, positional=("dir",)))
