"""Random generators that are pure functions of a key. Limits: another numpy version may change its Philox streams."""

import hashlib
from typing import Any

import numpy as np


def seeded_rng(*key: Any) -> np.random.Generator:
    """A random generator that is a function of its key alone; different keys give unrelated streams."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
