"""Documents are equal exactly if RFC 8785 gives them the same text."""

import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from pipeline.contracts.canonical import canonical, digest

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)  # all that RFC 8785 admits; beyond it the library raises
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0, 0.0, -0.0, 1, 1.0, 100.0, 1e21, 1e-7, 2.0**53])
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "é", "\U0001f600"]), inner),
    max_leaves=6,
)


@given(DOCUMENTS, DOCUMENTS)
def test_two_documents_are_equal_exactly_if_their_rfc_8785_texts_are(one: Any, other: Any) -> None:
    assert (canonical(one) == canonical(other)) == (rfc8785.dumps(one) == rfc8785.dumps(other))


@given(DOCUMENTS)
def test_neither_order_nor_the_writing_of_numbers_counts(document: Any) -> None:
    shuffled = json.loads(json.dumps(_reversed(document)))
    assert canonical(shuffled) == canonical(document)
    assert canonical(json.loads(rfc8785.dumps(document))) == canonical(document)


def _reversed(document: Any) -> Any:
    if isinstance(document, dict):
        return {name: _reversed(value) for name, value in reversed(document.items())}
    return [_reversed(item) for item in document] if isinstance(document, list) else document


def test_what_is_no_json_number_has_no_form() -> None:
    for odd in (float("nan"), float("inf"), 10**400, b"x", object()):
        for document in (odd, [None, odd], {"a": odd}):
            with pytest.raises((ValueError, TypeError)):
                canonical(document)


def test_numbers_that_rfc_8785_does_not_admit_are_taken_as_doubles() -> None:
    assert canonical(2**60) == canonical(float(2**60)) != canonical(2**60 + 2**10)
    assert len({canonical(value) for value in (None, 2**53 + 2, "2", 2)}) == 4
    with pytest.raises(TypeError):
        canonical({1: 2, "a": 3})
    assert len(digest("a", 1)) == 16


def test_a_kind_of_number_or_text_is_one() -> None:
    class Count(int):
        pass

    class Name(str):
        pass

    assert canonical([Count(10**30), Count(3), Name("x")]) == canonical([10**30, 3, "x"])
