"""Rotates and mirrors frames as ffmpeg does, by the display matrix that cameras store with a video."""

import numpy as np
from av import VideoFrame
from PIL import Image


def display_matrix(frame: VideoFrame) -> np.ndarray:
    """The 2 x 2 part of the display matrix of a frame, float64 [2, 2]; the identity if it has none."""
    stored = frame.side_data.get("DISPLAYMATRIX")
    if stored is None:
        return np.eye(2)
    values = np.frombuffer(stored, np.int32)  # type: ignore[call-overload]  # a buffer, which its stub does not state
    return values.reshape(3, 3)[:2, :2].astype(np.float64)


def is_rotation(matrix: np.ndarray) -> bool:
    """Whether a display matrix rotates by a multiple of 90 degrees, without mirroring."""
    return bool(np.linalg.det(matrix) > 0 and _clockwise_degrees(matrix) % 90 == 0)


def upright(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply a display matrix to an image, uint8 [H_px, W_px, 3]; angles between right angles keep its size."""
    degrees = _clockwise_degrees(matrix)
    if degrees % 90:
        return np.asarray(Image.fromarray(image).rotate(-degrees, Image.Resampling.BILINEAR))
    if degrees % 180:
        image, matrix = image.swapaxes(0, 1), matrix[::-1]
    return image[:: -1 if matrix[1, 1] < 0 else 1, :: -1 if matrix[0, 0] < 0 else 1]


def _clockwise_degrees(matrix: np.ndarray) -> int:
    """The angle by which ffmpeg rotates: 0 to 359; 0 for less than 1.5 and for a matrix with a column of zeros."""
    lengths = np.hypot(*matrix)
    if not lengths.all():
        return 0
    degrees = round(np.degrees(np.arctan2(matrix[0, 1] / lengths[1], matrix[0, 0] / lengths[0]))) % 360
    return degrees if degrees != 1 else 0
