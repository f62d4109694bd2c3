"""Results that others have reported (published_results.yaml), shown next to ours in reports."""

from functools import cache
from typing import NamedTuple

from eval.report.templates import read_file

SOURCES = {"C": "read in the authors' code or README", "T": "read on a third party's page"}


class Published(NamedTuple):
    """One published result.

    Attributes:
        key: the metric of ours that it is compared with, `task/variant/metric`.
        value: 0 to 1.
        system: the model.
        source: where it was read, a key of SOURCES.
        note: how it differs from ours.
        items: number of items of the published set; 0: unknown or not comparable.
    """

    key: str
    value: float
    system: str
    source: str
    note: str = ""
    items: int = 0


@cache
def published_results() -> tuple[Published, ...]:
    """All published results. Raises CommandFailed: the file is missing."""
    from omegaconf import OmegaConf

    return tuple(Published(**entry) for entry in OmegaConf.create(read_file("published_results.yaml")).results)
