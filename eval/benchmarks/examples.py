"""Which items of a benchmark its report shows."""

import numpy as np
from jaxtyping import Float
from torch import Tensor

# Odd, so that the middle one is the median.
NUM_EXAMPLES = 5


def select_examples(values: Float[Tensor, "N"]) -> list[int]:
    """Select rows from the best (largest) to the worst value, evenly spaced in this order, both ends included.

    Rows with NaN are left out.
    """
    ranked = (-values).argsort(stable=True)[: int((~values.isnan()).sum())].tolist()  # NaN come last
    if not ranked:
        return []
    return [ranked[position] for position in sorted({round(p) for p in np.linspace(0, len(ranked) - 1, NUM_EXAMPLES)})]
