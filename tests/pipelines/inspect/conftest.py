"""Fixtures of several files in this folder."""

from tiny_inspect import built, out, stock  # noqa: F401
