"""The inputs a model is built for."""

from typing import NamedTuple


class InputSpec(NamedTuple):
    """Side of the square image, length and sample rate of the waveform."""

    image_size_px: int
    clip_duration_s: float
    sample_rate_hz: int

    @property
    def samples(self) -> int:
        """Samples of a waveform."""
        return round(self.clip_duration_s * self.sample_rate_hz)
