"""Whether the clips of a run are about as long as the model's input."""

import contextlib
import statistics

from pipelines.stream.reader import ClipReader, UnreadableClip

CLIPS = 16  # the first ones, which lie in one shard: those of a remote data set are fetched anyway
# Of the input: with less audio, most of what the encoder computes is padding.
MIN_FRACTION = 0.5


def length_warning(reader: ClipReader, name: str) -> str:
    """A warning if the audio of a source is far shorter than `stream.clip_duration_s`; otherwise empty.

    Args:
        reader: of the source.
        name: of the source.
    """
    lengths = []
    for clip in range(min(CLIPS, reader.index.clips)):
        with contextlib.suppress(UnreadableClip):
            lengths.append(reader.audio_fraction(clip))
    fraction = statistics.median(lengths) if lengths else 1.0
    if fraction >= MIN_FRACTION:
        return ""
    duration_s = reader.spec.samples / reader.spec.sample_rate_hz
    return (
        f"stream.clip_duration_s={duration_s:g}, but the audio of {name} lasts {fraction * duration_s:.2g} s "
        f"(median of {len(lengths)} clips): {1 - fraction:.0%} of each input is padding; set stream.clip_duration_s to "
        "the length of your clips"
    )
