"""Whether a run has learned to match audio and images at all, from its last logged values."""

import math
from collections import deque
from collections.abc import Mapping

# Logged lines that are averaged: single batches are noisy.
WINDOW = 10
# In-batch accuracy below this multiple of chance counts as nothing learned.
FACTOR = 2.0


class LearningCheck:
    """Collects the logged values of a run and describes its state.

    Args:
        batch_size: global; chance level of the in-batch accuracy is 1 / batch_size.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size, self._lines = batch_size, deque[Mapping[str, float]](maxlen=WINDOW)
        self._warned = False

    def add(self, values: Mapping[str, float]) -> None:
        """Collect the values of a logged step; others than those of training are ignored."""
        if "accuracy" in values:
            self._lines.append(values)

    def warning(self, step: int, min_step: int) -> str:
        """A warning, once, if nothing is learned after `min_step` steps; otherwise empty."""
        if self._warned or step < min_step or not self.has_learned_nothing():
            return ""
        self._warned = True
        return f"step {step}: {self.describe()}"

    def has_learned_nothing(self) -> bool:
        """Whether the mean accuracy is near chance; False before enough steps are logged."""
        return len(self._lines) == WINDOW and self._mean("accuracy") * self.batch_size < FACTOR

    def describe(self) -> str:
        """The state in one line, with the values and their levels at chance."""
        loss = next((key for key in self._lines[-1] if key in ("loss/info_nce", "loss/cross_entropy")), None)
        parts = [f"in-batch accuracy {self._mean('accuracy'):.1%} (chance {1 / self.batch_size:.1%})"]
        if loss:
            chance = math.log(self.batch_size)
            parts.append(f"{loss} {self._mean(loss):.2f} (ln {self.batch_size} = {chance:.2f})")
        parts.append(
            f"scores {self._mean('scores/positive'):.3g} of pairs, {self._mean('scores/negative'):.3g} of others"
        )
        return f"audio and images are not matched better than by chance: {', '.join(parts)}; see docs/faq.md"

    def _mean(self, key: str) -> float:
        values = [line[key] for line in self._lines if key in line]
        return sum(values) / max(1, len(values))
