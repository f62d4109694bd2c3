"""Threads on a CPU that take whole tiles: each computes its tiles alone, and they wait for each other once, at the end.

Operators of torch split their own loops over threads and wait for the slowest one at the end of each, hundreds of times
for the scores of a batch. Where other processes hold the cores, every such barrier may take a time slice of the
scheduler: with two busy processes on two cores, 64 pairs and `paired`, 14 s instead of the 1 s that one thread needs.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")


def share_work(run: Callable[[Iterator[Item]], None], items: Sequence[Item], device: torch.device) -> None:
    """Call `run(iterator)` in several threads, which together take every item once, without gradients.

    Args:
        run: consumes its iterator. On a CPU each of its operators computes with one thread, so that an item has the
            same bits on any number of threads; it must write results of different items to different places.
        items: taken in order.
        device: on a CPU `torch.get_num_threads()` threads are used, elsewhere this one alone.
    """
    shared = iter(list(items))  # of a list, whose iterator several threads may use

    @torch.inference_mode()
    def work() -> None:
        if device.type == "cpu":
            torch.set_num_threads(1)  # of the calling thread
        run(shared)

    threads = torch.get_num_threads()
    others = min(threads, len(items)) - 1 if device.type == "cpu" else 0
    try:
        with ThreadPoolExecutor(max(1, others)) as pool:  # starts a thread when work is submitted
            futures = [pool.submit(work) for _ in range(others)]
            work()
            for future in futures:
                future.result()
    finally:
        if device.type == "cpu":
            torch.set_num_threads(threads)
