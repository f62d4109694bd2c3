"""The audio steps of the spoken words of a gallery's clips, for the advanced variants of retrieval."""

from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from eval.benchmarks.retrieval.gallery import Gallery
from eval.distributed import distributed_map
from eval.metrics.segmentation import word_window
from model.denseav import DenseAV
from pipelines.clip_words import Word, clip_words
from pipelines.stream.reader import ClipReader, UnreadableClip


class WordSteps(NamedTuple):
    """Audio steps of the pairs of a gallery.

    Attributes:
        mask: True at the valid steps within 0.2 s of a word; all valid steps of a clip without words.
        clips_with_words: number of clips that have such steps.
        clips_with_invalid_words: number of clips whose KEY.json, or its words, cannot be read; they count as without.
    """

    mask: Bool[Tensor, "N T"]
    clips_with_words: int
    clips_with_invalid_words: int


def word_steps(gallery: Gallery, model: DenseAV, mask: Bool[Tensor, "N T"]) -> WordSteps:
    """Find the steps of the words of each clip, on every rank.

    Args:
        gallery: encoded by this model.
        mask: its valid audio steps, True = valid.

    Source: reference 1.6, advanced, with the union of the windows of all words in place of one word's.
    """
    reader = gallery.reader(model)

    def windows(rows: range) -> dict[str, Tensor]:
        spoken, invalid = zip(*(_read(reader, gallery.clips[row]) for row in rows), strict=True)
        steps = [_windows(words, mask.shape[1], model.inputs.clip_duration_s) for words in spoken]
        return {"steps": torch.stack(steps), "invalid": torch.tensor(invalid)}

    columns = distributed_map(len(mask), gallery.batch_size, windows, "words")
    steps = columns["steps"].to(mask.device) & mask
    has_words = steps.any(dim=1)
    return WordSteps(torch.where(has_words[:, None], steps, mask), int(has_words.sum()), int(columns["invalid"].sum()))


def _read(reader: ClipReader, clip: int) -> tuple[list[Word], bool]:
    """The words of a clip, and whether they are invalid; third-party shards may have no KEY.json, and so no words."""
    try:
        return clip_words(reader.metadata(clip)), False
    except UnreadableClip as error:
        return [], error.reason != "missing_member"
    except ValueError:
        return [], True


def _windows(words: list[Word], steps: int, duration_s: float) -> Bool[Tensor, "T"]:
    """True at the steps of any word that starts within the encoded duration."""
    timing_s = torch.tensor([word[1:] for word in words if word.start_s < duration_s]).reshape(-1, 2)
    return word_window(timing_s, steps, torch.full((len(timing_s),), duration_s)).any(dim=0)
