"""From AudioSet's table to the row table: seconds and memory of reading, filtering, checking media and writing.

`python tests/bench/bench_rows.py [rows]` makes a table of two million rows (or the given number) in the published form,
of whose videos 2,000 exist, and a list of 200,000 clips to exclude, in several published forms. Every output line is a
fresh process and adds a step to the line above it; the first reads the table with csv alone.
"""

from __future__ import annotations

import csv
import random
import resource
import string
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from configs.schema import SourceConfig  # noqa: E402
from pipelines.build.preflight import MediaCheck  # noqa: E402
from pipelines.build.row_table import write_rows  # noqa: E402
from pipelines.manifest import Clip, Rejected  # noqa: E402
from pipelines.sources import audioset  # noqa: E402
from pipelines.sources.filters import filtered  # noqa: E402

ROWS, MEDIA, LEFT_OUT, LABELS = 2_000_000, 2_000, 200_000, 527
FORMS = ("{ytid}\n", "{ytid}_{start_s:06d}.mp4\n", "videos/{ytid}_{start_s}000_{end_s}000.wav\n")
STEPS = ("csv alone", "rows", "filtered", "surveyed", "written")


def make(root: Path, rows: int) -> None:
    """The table, the names of labels, the list of videos to leave out, and some media; nothing is kept in memory."""
    draw = random.Random(0)
    letters = string.ascii_letters + string.digits + "-_"
    mids = [f"/m/0{number:05x}" for number in range(LABELS)]
    (root / "videos").mkdir()
    (root / "class_labels_indices.csv").write_text(
        "index,mid,display_name\n"
        + "".join(f'{number},{mid},"Sound {number}, of a kind"\n' for number, mid in enumerate(mids))
    )
    with (root / "unbalanced_train_segments.csv").open("w") as table, (root / "left_out.txt").open("w") as left_out:
        table.write("# Segments csv\n# num_ytids, num_segs\n# YTID, start_seconds, end_seconds, positive_labels\n")
        for number in range(rows):
            ytid = "".join(draw.choices(letters, k=6)) + f"{number:05x}"  # unique
            start_s = 10 * draw.randrange(30)
            table.write(
                f'{ytid}, {start_s:.3f}, {start_s + 10:.3f}, "{",".join(draw.choices(mids, k=draw.randrange(1, 4)))}"\n'
            )
            if number % (rows // MEDIA) == 0:
                (root / f"videos/{ytid}_{start_s * 1000}.mp4").touch()
            if number % (rows // LEFT_OUT) == 1:
                left_out.write(FORMS[number % len(FORMS)].format(ytid=ytid, start_s=start_s, end_s=start_s + 10))


def work(root: Path, step: str) -> tuple[float, float, float, int]:
    """Do the steps up to the one that is named.

    Returns:
        Seconds by the clock and of the processor, peak memory in MB, rows at the end.
    """
    began_s, cpu_began_s = time.perf_counter(), time.process_time()
    count = _count(root, STEPS.index(step))
    return (
        time.perf_counter() - began_s,
        time.process_time() - cpu_began_s,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        count,
    )


def _count(root: Path, steps: int) -> int:
    if steps == 0:
        with (root / audioset.TABLES["train"]).open(newline="") as table:
            return _length(csv.reader(table, skipinitialspace=True))
    rows: Iterator[Clip | Rejected] = audioset.rows(
        SourceConfig(kind="audioset", root=str(root), split="train", media_is_cut=True)
    )
    if steps >= 2:
        rows = filtered(rows, [str(root / "left_out.txt")], [])
    if steps >= 3:
        rows = MediaCheck(root).count(rows)
    if steps >= 4:
        return len(write_rows(rows, root / "rows.jsonl", seed=0, rows_per_shard=1000))
    return _length(rows)


def _length(rows: Iterator) -> int:
    return deque(enumerate(rows, 1), maxlen=1)[0][0]


def main(rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), rows)
        print(f"{'':<12}{'seconds':>9}{'cpu s':>8}{'us/row':>9}{'MB':>8}{'rows':>12}")
        for step in STEPS:
            with get_context("spawn").Pool(1) as pool:
                seconds, cpu_s, memory_mb, count = pool.apply(work, (Path(folder), step))
            print(
                f"{step:<12}{seconds:>9.1f}{cpu_s:>8.1f}{1e6 * cpu_s / rows:>9.2f}{memory_mb:>8.0f}{count:>12,}",
                flush=True,
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
