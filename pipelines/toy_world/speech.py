"""Speech synthesis with word timings by espeak-ng, through the library in the espeakng-loader wheel.

The library keeps state between utterances (pitch flutter, random numbers), so it is loaded anew for each one (4 ms):
the same call gives the same samples, in any process and after any other call.
Limits: English; Linux and macOS (POSIX dlclose).
"""

import _ctypes
import ctypes
import itertools
from dataclasses import dataclass

import numpy as np

from configs.errors import UsageError
from pipelines.toy_world.sound import SAMPLE_RATE_HZ, resample

# speaker -> (espeak-ng voice and variant, pitch 0..100)
SPEAKERS = {
    "ann": ("en-us+f2", 55),
    "bob": ("en-us+m3", 45),
    "cleo": ("en+f4", 50),
    "dan": ("en-gb-scotland+m5", 50),
    "eve": ("en-gb-x-rp+f3", 55),
    "finn": ("en-us-nyc+m7", 45),
    "gwen": ("en-gb-scotland+f5", 45),
    "hugo": ("en+m1", 45),
}

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples come through the callback while espeak_Synth runs
_RATE, _PITCH = 1, 3
_UTF8 = 1
_EVENTS_END, _EVENT_WORD = 0, 1


@dataclass(frozen=True)
class Word:
    """A spoken word and its time span, which ends at the start of the next word."""

    text: str
    start_s: float
    end_s: float


def synthesize_speech(
    text: str, voice: str = "en-us", rate_wpm: int = 170, pitch: int = 50
) -> tuple[np.ndarray, tuple[Word, ...]]:
    """Synthesize a text.

    Args:
        text: words separated by single spaces.
        voice: espeak-ng language with an optional variant, as in `en-us+f2`.
        rate_wpm: words per minute, 80 to 450.
        pitch: 0 to 100.

    Returns:
        Waveform, float32 [S], 16 kHz, -1..1; and the words in order.

    Raises:
        UsageError: unknown voice, or a text without words.
    """
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    pieces: list[bytes] = []
    onsets: list[tuple[str, float]] = []

    @_Callback
    def receive(samples: int | None, count: int, events: ctypes.Array) -> int:
        if samples and count > 0:
            pieces.append(ctypes.string_at(samples, count * 2))
        for event in itertools.takewhile(lambda event: event.kind != _EVENTS_END, events):
            if event.kind == _EVENT_WORD:
                first = event.text_position - 1
                onsets.append((text[first : first + event.length], event.sample / rate_hz))
        return 0

    try:
        rate_hz = library.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
        assert rate_hz > 0, "espeak-ng did not find its data files"
        library.espeak_SetSynthCallback(receive)
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UsageError(
                f"espeak-ng has no voice {voice!r}; use en-us, en or en-gb-scotland, with +m1 to +m8 or +f1 to +f5"
            )
        library.espeak_SetParameter(_RATE, rate_wpm, 0)
        library.espeak_SetParameter(_PITCH, pitch, 0)
        utterance = text.encode()
        library.espeak_Synth(utterance, len(utterance) + 1, 0, 1, 0, _UTF8, None, None)
        library.espeak_Terminate()
    finally:
        _ctypes.dlclose(library._handle)
    if not onsets:
        raise UsageError(f"{text!r} has no words that espeak-ng can speak")
    waveform = np.frombuffer(b"".join(pieces), np.int16).astype(np.float32) / 32768
    ends = [start_s for _, start_s in onsets[1:]] + [len(waveform) / rate_hz]
    words = tuple(Word(word, start_s, end_s) for (word, start_s), end_s in zip(onsets, ends, strict=True))
    return resample(waveform, rate_hz, SAMPLE_RATE_HZ), words


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("kind", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),  # a union of a number, a pointer and these characters
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))
