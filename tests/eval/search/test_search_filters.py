"""Filters as users write them."""

import pytest

from configs.errors import UsageError
from eval.search.filters import Filter, parse_filter, parse_selection


def test_terms_are_separated_by_commas_and_names_may_contain_commas():
    assert parse_filter("", "where") == Filter()
    assert parse_filter("label=dog,source=audioset", "where") == Filter(("dog",), ("audioset",))
    assert parse_filter("label=Child speech, kid speaking, label=Dog", "where").labels == (
        "Child speech, kid speaking",
        "Dog",
    )
    assert parse_filter("id=a=b,id=c'd", "where").ids == ("a=b", "c'd")


@pytest.mark.parametrize("text", ["dog", "name=dog", "label=", "label=dog,source=", "x,label=dog"])
def test_other_texts_are_refused_with_the_allowed_form(text):
    with pytest.raises(UsageError, match="allowed are label=NAME, source=NAME and id=NAME"):
        parse_filter(text, "where")


def test_a_selection_is_a_list_of_ids_or_a_filter():
    assert parse_selection("a/1, b/2", "delete") == Filter(ids=("a/1", "b/2"))
    assert parse_selection("source=a", "delete") == Filter(sources=("a",))
    with pytest.raises(UsageError, match="names no clip"):
        parse_selection(" , ", "delete")
