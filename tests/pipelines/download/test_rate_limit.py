"""Spacing of clips, and the estimate that is printed first."""

import pytest

from pipelines.download.rate_limit import RateLimit, format_duration, seconds_to_wait


def test_starts_of_consecutive_clips_are_spaced_by_the_rate():
    assert seconds_to_wait(None, 50.0, 300) == 0.0
    assert seconds_to_wait(100.0, 103.0, 300) == 9.0  # an hour has 300 times 12 s
    assert seconds_to_wait(100.0, 130.0, 300) == 0.0
    assert seconds_to_wait(100.0, 100.0, 0) == 0.0


def test_slow_clips_do_not_let_later_ones_exceed_the_rate():
    now_s, starts = [0.0], []

    def sleep(seconds):
        now_s[0] += seconds

    rate = RateLimit(360, clock=lambda: now_s[0], sleep=sleep)
    for work_s in (1.0, 30.0, 1.0, 2.0):
        rate.wait()
        starts.append(now_s[0])
        now_s[0] += work_s
    assert starts == [0.0, 10.0, 40.0, 50.0]


@pytest.mark.parametrize(
    ("clips", "text"),
    [
        (2_084_320, "about 290 days"),
        (22_160, "about 3 days"),
        (3000, "about 10 hours"),
        (20, "about 4 minutes"),
        (1, "about a minute"),
    ],
)
def test_estimate_is_in_words(clips, text):
    assert format_duration(clips, 300) == text
