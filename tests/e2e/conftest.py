"""Fixtures of several files in this folder."""

from tiny_builds import built_files, media  # noqa: F401
from tiny_machines import machine  # noqa: F401
from tiny_runs import settings  # noqa: F401
