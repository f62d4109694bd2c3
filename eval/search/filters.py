"""Filters of clips as users write them: `label=dog,source=audioset`."""

import re
from typing import NamedTuple

from configs.errors import UsageError

FIELDS = ("label", "source", "id")
_START = re.compile(rf"(?:^|,)\s*({'|'.join(FIELDS)})=")


class Filter(NamedTuple):
    """Which clips are meant; an empty filter selects all.

    Attributes:
        labels: a clip must have all of them.
        sources: a clip must have one of them.
        ids: a clip must have one of them.
    """

    labels: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()


def parse_filter(text: str, key: str) -> Filter:
    """The filter of a text such as `label=Child speech, kid speaking,source=audioset`.

    A comma separates two terms only in front of `label=`, `source=` or `id=`, because names contain commas.

    Args:
        text: terms; empty: all clips.
        key: setting that the text comes from, for the message.

    Raises:
        UsageError: the text is not made of such terms.
    """
    if not text.strip():
        return Filter()
    starts = list(_START.finditer(text))
    ends = [match.start() for match in starts[1:]] + [len(text)] * bool(starts)
    terms = [(match[1], text[match.end() : end].strip()) for match, end in zip(starts, ends, strict=True)]
    if not starts or starts[0].start() or not all(value for _, value in terms):
        raise UsageError(
            f"{key}={text}: allowed are label=NAME, source=NAME and id=NAME, separated by commas, such as "
            f"{key}=label=dog,source=audioset"
        )
    return Filter(*(tuple(value for name, value in terms if name == field) for field in FIELDS))


def parse_selection(text: str, key: str) -> Filter:
    """The clips that `delete=` names: a filter as in `parse_filter`, or ids separated by commas.

    Raises:
        UsageError: the text names no clip.
    """
    if _START.match(text):
        return parse_filter(text, key)
    ids = tuple(one.strip() for one in text.split(",") if one.strip())
    if not ids:
        raise UsageError(f"{key}={text} names no clip: allowed are ids separated by commas, or a filter as in where")
    return Filter(ids=ids)
