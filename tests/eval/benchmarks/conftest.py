"""Fixtures of several files in this folder."""

from tiny_gallery import model, shards  # noqa: F401
from tiny_localization import sets, untrained  # noqa: F401
from tiny_words import spoken  # noqa: F401
