"""Streams the audio of a media file in order, with flat memory, placed in time as the build places it.

Sample 0 is at time 0 of the file; gaps and what precedes the first packet are silence. Differs from
pipelines.build.decode.audio_track: where two packets overlap by more than its jitter, the earlier one is kept.
"""

from collections.abc import Iterable, Iterator

import av
import numpy as np
from av.container import InputContainer
from jaxtyping import Float

from pipelines.build.decode.audio_track import (
    MAX_CHANNELS,
    MAX_JITTER_S,
    channel_samples,
    check_amplitude,
    energies,
    loudest_channel,
)
from pipelines.build.decode.container import time_base_s
from pipelines.build.decode.packet_scan import MAX_BAD_FRACTION, demux_first_recording, jumps_back
from pipelines.manifest import RejectedClip

_SILENCE_S = 1.0  # longest chunk of a gap


def decoded_frames(container: InputContainer, zero_s: float) -> Iterator[tuple[float, av.AudioFrame]]:
    """Decode the first audio stream up to a jump back of its clock, tolerating a few packets that do not decode.

    Args:
        container: open, at its start.
        zero_s: time of the start of the file on the clock of the stream.

    Yields:
        (presentation time in seconds from the start of the file, NaN if the frame has none; frame).

    Raises:
        RejectedClip: many packets do not decode.
    """
    stream = container.streams.audio[0]
    unit_s, clock_s, packets, bad = time_base_s(stream), -np.inf, 0, 0
    for packet in demux_first_recording(container, [stream]):
        if packet.dts is not None:
            if jumps_back(clock_s, packet.dts * unit_s, (packet.duration or 0) * unit_s):
                break
            clock_s = packet.dts * unit_s
        packets += 1
        try:
            frames = stream.decode(packet)
        except av.error.FFmpegError:
            bad += 1
            continue
        for frame in frames:
            yield np.nan if frame.pts is None else frame.pts * unit_s - zero_s, frame
    if bad > MAX_BAD_FRACTION * packets:
        raise RejectedClip("unreadable", f"{bad} of {packets} audio packets do not decode")


def placed_chunks(
    container: InputContainer, zero_s: float, end_s: float, channels: int = MAX_CHANNELS
) -> Iterator[tuple[Float[np.ndarray, "channels S"], int]]:
    """Decode the first audio stream into consecutive chunks without gaps.

    Args:
        container: open, at its start.
        zero_s: time of the start of the file on the clock of the stream.
        end_s: end of the file, where the padding of the last packet is cut off.
        channels: most channels to return.

    Yields:
        (float32 [channels, S], about -1 to 1; sample rate in Hz). Number of channels and rate are those of the first
        frame.

    Raises:
        RejectedClip: many packets do not decode, the sample rate changes, or samples are not finite or far above 1.
    """
    rate_hz = count = end = 0
    for time_s, frame in decoded_frames(container, zero_s):
        if not rate_hz:
            rate_hz, count = frame.sample_rate, min(frame.layout.nb_channels, channels)
            end = round(np.nan_to_num(time_s) * rate_hz)
            yield from _silence(count, end, rate_hz)
        if frame.sample_rate != rate_hz:
            raise RejectedClip("unreadable", f"the sample rate changes from {rate_hz} Hz to {frame.sample_rate} Hz")
        samples = channel_samples(frame, count)
        # A stream may change its number of channels; the last one then stands for those that are missing.
        samples = samples[np.minimum(np.arange(count), len(samples) - 1)]
        begin = end
        if abs(time_s * rate_hz - end) > MAX_JITTER_S * rate_hz:
            begin = round(time_s * rate_hz)
        yield from _silence(count, min(begin, round(end_s * rate_hz)) - max(end, 0), rate_hz)
        samples = samples[:, max(0, max(end, 0) - begin) : max(0, round(end_s * rate_hz) - begin)]
        end = max(end, begin + frame.samples)
        if samples.size:
            yield np.ascontiguousarray(samples), rate_hz


def _silence(channels: int, samples: int, rate_hz: int) -> Iterator[tuple[np.ndarray, int]]:
    while samples > 0:
        part = min(samples, round(_SILENCE_S * rate_hz))
        yield np.zeros((channels, part), np.float32), rate_hz
        samples -= part


def loudest_channel_of(chunks: Iterable[tuple[Float[np.ndarray, "channels S"], int]]) -> int:
    """The first of the loudest channels, within 1 dB, over all chunks; 0 without any, as decode.channel=loudest."""
    return loudest_channel(sum((energies(samples) for samples, _ in chunks), np.zeros(1)))


def resampled_blocks(
    chunks: Iterable[tuple[Float[np.ndarray, "channels S"], int]], channel: int, rate_hz: int, samples: int
) -> Iterator[Float[np.ndarray, "S"]]:
    """One channel, resampled as the build does, in blocks.

    Args:
        chunks: from placed_chunks.
        channel: number of the channel.
        rate_hz: sample rate of the blocks.
        samples: length of the blocks.

    Yields:
        float32 [samples], -1 to 1; the last block may be shorter.

    Raises:
        RejectedClip: samples are not finite or far above full scale.
    """
    parts: list[np.ndarray] = []
    waiting = 0
    for part in _resampled(chunks, channel, rate_hz):
        parts.append(part)
        waiting += len(part)
        if waiting >= samples:
            joined = np.concatenate(parts)
            for start in range(0, waiting - samples + 1, samples):
                yield joined[start : start + samples].copy()
            parts = [joined[waiting - waiting % samples :].copy()]
            waiting %= samples
    if waiting:
        yield np.concatenate(parts)


def _resampled(
    chunks: Iterable[tuple[Float[np.ndarray, "channels S"], int]], channel: int, rate_hz: int
) -> Iterator[Float[np.ndarray, "S"]]:
    resampler: av.AudioResampler | None = None
    read = written = own_rate_hz = 0
    for chunk, own_rate_hz in chunks:
        samples = check_amplitude(chunk[channel])
        if own_rate_hz == rate_hz:
            yield samples
            continue
        resampler = resampler or av.AudioResampler(format="flt", layout="mono", rate=rate_hz)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="flt", layout="mono")
        frame.sample_rate = own_rate_hz
        read += len(samples)
        for part in resampler.resample(frame):
            written += part.samples
            yield part.to_ndarray()[0]
    if resampler is None:
        return
    left = round(read * rate_hz / own_rate_hz) - written
    for part in resampler.resample(None):
        samples = part.to_ndarray()[0][: max(0, left)]
        left -= len(samples)
        yield samples
    if left > 0:
        yield np.zeros(left, np.float32)
