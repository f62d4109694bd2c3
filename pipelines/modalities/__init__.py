"""The stored modalities, in the order in which shards store their members and training transforms draw random numbers.

Reading order: modality.py (the interface), frames.py, waveform.py, log_mel.py (one modality each), encode.py (all
members of a clip). To add one, write a file like these, append its class to MODALITIES, and add its switch to
`DecodeConfig`; data sets that store it then have it in `Batch.extra`.
"""

from typing import Any

from pipelines.modalities.frames import Frames
from pipelines.modalities.log_mel import LogMel
from pipelines.modalities.modality import Modality
from pipelines.modalities.waveform import Waveform

MODALITIES: tuple[type[Modality[Any]], ...] = (Frames, Waveform, LogMel)
