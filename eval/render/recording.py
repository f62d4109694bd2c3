"""Small maps of a whole video, kept in a temporary file without a name, so that memory stays flat."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from eval.render.decorations import Scale

_HIGH_PERCENTILE = 99.0  # of the largest values of the frames
_LARGEST = float(np.finfo(np.float16).max)


class Recording:
    """Appends maps of N channels, then reads them in the same order; float16 on disk.

    Args:
        folder: where the file is created; it disappears with the process, even if that is killed.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # close() closes it
        self._shape: tuple[int, ...] = ()
        self._lows: list[np.ndarray] = []
        self._means: list[np.ndarray] = []
        self._highs: list[np.ndarray] = []

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def append(self, maps: Float[np.ndarray, "C H W"]) -> None:
        """Add the maps of a moment; all have the same shape."""
        clean = np.nan_to_num(maps, posinf=_LARGEST, neginf=-_LARGEST).clip(-_LARGEST, _LARGEST)
        self._shape = clean.shape
        self._lows.append(clean.min(axis=(1, 2)))
        self._means.append(clean.mean(axis=(1, 2), dtype=np.float64))
        self._highs.append(clean.max(axis=(1, 2)))
        self._file.write(clean.astype(np.float16).tobytes())

    def __iter__(self) -> Iterator[Float[np.ndarray, "C H W"]]:
        """The maps, float32."""
        self._file.seek(0)
        size = int(np.prod(self._shape)) * 2
        for _ in range(len(self._highs)):
            yield np.frombuffer(self._file.read(size), np.float16).reshape(self._shape).astype(np.float32)

    def scale(self) -> Scale:
        """The scale of one channel over the whole video.

        From the median of the smallest values of the frames, to the 99th percentile of their largest ones: a few
        extreme frames do not darken the others.
        """
        return Scale(float(np.percentile(self._lows, 50)), float(np.percentile(self._highs, _HIGH_PERCENTILE)))

    def scales_of_heads(self) -> list[Scale]:
        """From the mean of each channel to the largest value of all: a head that finds little stays dark."""
        high = float(np.percentile(self._highs, _HIGH_PERCENTILE, axis=0).max())
        return [Scale(low, high) for low in np.mean(self._means, axis=0).tolist()]
