"""The sound of a rendered video: the packets of the original where MP4 players take them, else AAC made from them."""

from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from av.container import OutputContainer

from eval.inference.video_reader import VideoReader
from pipelines.build.decode.packet_scan import demux_first_recording

_COPYABLE_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
_LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
_BITS_PER_CHANNEL = 96_000
_RATE_HZ, _KEPT_RATES_HZ = 48000, (44100, 48000)


def sound_packets(source: VideoReader, container: OutputContainer) -> Iterator[tuple[float, list[av.Packet]]]:
    """Add an audio stream to a container that is not written yet, and give its packets in order.

    The packets of the original are copied if they are AAC and their times need no correction (`audio_is_plain`).
    Otherwise the audio is placed in time, reduced to stereo at 44.1 or 48 kHz, and encoded as AAC.

    Args:
        source: a file with audio.
        container: where the stream is added, when the first packets are taken.

    Yields:
        (time in seconds, packets that start there or later). The first time is 0, without packets.
    """
    return _copied(source, container) if _is_copyable(source) else _encoded(source, container)


def _is_copyable(source: VideoReader) -> bool:
    with source.open() as media:
        context = media.streams.audio[0].codec_context
        is_aac = context.name == "aac" and bool(context.extradata) and media.format.name in _COPYABLE_CONTAINERS
    return is_aac and source.audio_is_plain


def _copied(source: VideoReader, container: OutputContainer) -> Iterator[tuple[float, list[av.Packet]]]:
    with source.open() as media:
        original = media.streams.audio[0]
        stream = container.add_stream_from_template(original)
        yield 0.0, []
        zero = round(source.zero_s / original.time_base) if original.time_base else 0
        for packet in demux_first_recording(media, [original]):
            if packet.size and packet.pts is not None and packet.dts is not None:
                packet.pts, packet.dts = packet.pts - zero, packet.dts - zero
                packet.stream = stream
                yield float(packet.pts * packet.time_base), [packet]


def _encoded(source: VideoReader, container: OutputContainer) -> Iterator[tuple[float, list[av.Packet]]]:
    chunks = source.audio_chunks(channels=len(_LAYOUTS))
    samples, rate_hz = next(chunks)
    target_hz = rate_hz if rate_hz in _KEPT_RATES_HZ else _RATE_HZ
    layout = "mono" if len(samples) == 1 else "stereo"
    stream = container.add_stream("aac", rate=target_hz, layout=layout)
    stream.bit_rate = _BITS_PER_CHANNEL * (1 if layout == "mono" else 2)
    yield 0.0, []
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=target_hz)
    count = 0
    while True:
        frame = av.AudioFrame.from_ndarray(np.clip(samples, -1, 1), format="fltp", layout=_LAYOUTS[len(samples)])
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, count, Fraction(1, rate_hz)
        yield count / rate_hz, [packet for part in resampler.resample(frame) for packet in stream.encode(part)]
        count += samples.shape[1]
        following = next(chunks, None)
        if following is None:
            break
        samples = following[0]
    yield count / rate_hz, [packet for part in resampler.resample(None) for packet in stream.encode(part)]
    yield count / rate_hz, list(stream.encode(None))
