"""Items shared by threads: each is taken once, computed with one thread of torch, and errors reach the caller."""

import threading
import time

import pytest
import torch

from model.similarity.fused.share_work import share_work

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 3])
def threads(request):
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(1)


def test_every_item_is_taken_once_by_as_many_threads_as_torch_has(threads):
    taken = []

    def run(items):
        for item in items:
            time.sleep(0.02)
            taken.append((item, threading.get_ident(), torch.get_num_threads(), torch.is_grad_enabled()))

    share_work(run, range(30), CPU)
    assert sorted(item for item, *_ in taken) == list(range(30))
    assert len({thread for _, thread, *_ in taken}) == threads
    assert {entry[2:] for entry in taken} == {(1, False)}
    assert torch.get_num_threads() == threads


def test_an_error_reaches_the_caller_and_the_number_of_threads_is_restored(threads):
    def run(items):
        for item in items:
            if item == 7:
                raise ValueError("item 7")

    with pytest.raises(ValueError, match="item 7"):
        share_work(run, range(30), CPU)
    assert torch.get_num_threads() == threads


def test_nothing_to_do_is_allowed(threads):
    share_work(list, [], CPU)
    assert torch.get_num_threads() == threads
