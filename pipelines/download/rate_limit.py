"""The rate at which clips are begun."""

import time
from collections.abc import Callable


def seconds_to_wait(began_s: float | None, now_s: float, per_hour: float) -> float:
    """Time until the next clip may begin.

    Args:
        began_s: when the last clip began; None: this is the first one.
        now_s: the time now, on the same clock.
        per_hour: maximum number of clips an hour; 0: no limit.
    """
    if began_s is None or not per_hour:
        return 0.0
    return max(0.0, began_s + 3600 / per_hour - now_s)


class RateLimit:
    """Spaces the starts of clips evenly, so that their number never exceeds the rate.

    Args:
        per_hour: maximum number of clips an hour; 0: no limit.
        clock, sleep: time.monotonic and time.sleep, or those of a test.
    """

    def __init__(
        self,
        per_hour: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._per_hour, self._clock, self._sleep = per_hour, clock, sleep
        self._began_s: float | None = None

    def wait(self) -> None:
        """Wait until the next clip may begin."""
        pause_s = seconds_to_wait(self._began_s, self._clock(), self._per_hour)
        if pause_s:
            self._sleep(pause_s)
        self._began_s = self._clock()

    def pause(self, seconds: float) -> None:
        """Wait after a failure."""
        self._sleep(seconds)


def format_duration(clips: int, per_hour: float) -> str:
    """How long `clips` take at a rate, in words: `about 290 days`."""
    hours = clips / per_hour
    days = hours / 24
    if days >= 100:
        return f"about {round(days, -1):,.0f} days"
    if days >= 3:
        return f"about {days:.0f} days"
    if hours >= 2:
        return f"about {hours:.0f} hours"
    minutes = round(hours * 60)
    return f"about {minutes} minutes" if minutes > 1 else "about a minute"
