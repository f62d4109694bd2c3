"""Fixtures of several files in this folder."""

from tiny_builds import built, built_files, media  # noqa: F401
