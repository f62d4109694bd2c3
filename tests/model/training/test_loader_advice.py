"""Which of data and device limits a run, and the number of workers that is advised."""

from collections import Counter

import pytest
import torch

from configs.schema import StreamConfig
from model.training.loader_advice import StepTimes, cores_per_rank, describe_limit, workers_needed, workers_that_fit
from model.training.loader_probe import MEASURED_STEPS, LoaderProbe
from pipelines.stream.batch import HostBatch

# 50 clips in 0.125 s on the device, 400 clips/s; a worker makes 50 in half a second, 100 clips/s: 4.6 workers with the
# margin of 15 %.
FAST_DEVICE = StepTimes(clips=50, step_s=0.25, waited_s=0.125, worker_s=0.5, worker_cpu_s=0.5)
SLOW_DEVICE = StepTimes(clips=50, step_s=2.0, waited_s=0.0, worker_s=0.5, worker_cpu_s=0.5)


def test_workers_keep_up_with_the_device_and_leave_a_core_to_the_training_process():
    assert workers_needed(FAST_DEVICE) == 5 and workers_needed(SLOW_DEVICE) == 1
    assert workers_that_fit(FAST_DEVICE, 8.0) == 7 and workers_that_fit(FAST_DEVICE, 1.0) == 1
    waits_for_a_store = FAST_DEVICE._replace(worker_cpu_s=0.25)
    assert workers_that_fit(waits_for_a_store, 4.0) == 6


def test_data_that_limit_the_run_name_the_workers_that_would_do():
    line = describe_limit(FAST_DEVICE, num_workers=2, cores=8.0)
    assert line == (
        "data loading limits this run: a rank waits for data 50% of the time; its device takes 400 clips/s, "
        "a worker makes 100; set stream.num_workers=5"
    )
    assert "set stream.num_workers=5" in describe_limit(FAST_DEVICE, num_workers=0, cores=8.0)


def test_too_few_cores_are_named_where_workers_would_not_help():
    line = describe_limit(FAST_DEVICE, num_workers=2, cores=4.0)
    assert "5 workers are needed, but 4 cores a rank keep 3 busy: set stream.num_workers=3, and use more cores" in line


def test_enough_workers_that_are_held_up_are_not_multiplied():
    line = describe_limit(FAST_DEVICE, num_workers=6, cores=8.0)
    assert line.startswith("data loading limits this run") and "stream.num_workers=6 makes enough on average" in line


def test_a_slow_device_is_the_limit_and_needs_fewer_workers():
    line = describe_limit(SLOW_DEVICE, num_workers=4, cores=8.0)
    assert line.startswith("the device limits this run: a rank waits for data 0% of the time; its device takes 25 ")
    assert line.endswith("; stream.num_workers=1 is enough")


def test_no_wait_with_hardly_enough_workers_is_a_balance():
    line = describe_limit(FAST_DEVICE._replace(step_s=0.126, waited_s=0.001), num_workers=4, cores=8.0)
    assert line.startswith("data loading and device are balanced") and line.endswith("stream.num_workers=4 is enough")


def test_ranks_share_the_cores_that_any_of_them_may_use_up_to_the_limit_of_the_control_group():
    assert cores_per_rank([range(16)] * 4) == 4
    assert cores_per_rank([range(4), range(4, 8)]) == 4
    assert cores_per_rank([range(16)] * 4, core_limit=6.0) == 1.5


def _batch(worker_s):
    return HostBatch({}, torch.zeros(4), ["x"] * 4, [0] * 4, Counter(), worker_s, worker_s)


@pytest.mark.parametrize(("workers", "accumulation", "skipped"), [(0, 1, 2), (3, 1, 6), (3, 2, 3)])
def test_probe_speaks_once_after_the_batches_that_were_loaded_before_the_first_step(workers, accumulation, skipped):
    probe = LoaderProbe(StreamConfig(num_workers=workers, prefetch_factor=2), accumulation)
    for _ in range(skipped):
        assert not probe.add(100.0, 100.0, [_batch(100.0)] * accumulation)
    for _ in range(MEASURED_STEPS - 1):
        assert not probe.add(0.2, 0.1, [_batch(0.1 / accumulation)] * accumulation)
    line = probe.add(0.2, 0.1, [_batch(0.1 / accumulation)] * accumulation)
    assert f"waits for data 50% of the time; its device takes {40 * accumulation} clips/s" in line
    assert not probe.add(0.2, 0.1, [_batch(0.1)])
