"""Fixtures of several files in this folder and below it."""

from tiny_words import spoken  # noqa: F401
