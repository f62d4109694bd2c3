"""Fixtures of several files in this folder."""

from tiny_verify import built, out  # noqa: F401
