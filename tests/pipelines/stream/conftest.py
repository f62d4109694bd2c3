"""Fixtures of the tests of the shard cache."""

from tiny_cache import cache, folder, server, short_pauses  # noqa: F401
