"""Features without their names: exactly those of the schema, and back again."""

import pytest

from pipeline.contracts.features import feature_names, with_names, without_names

NAMES = feature_names({"properties": {"b": {}, "a": {}, "c": {}}})


def test_the_order_is_that_of_the_names_whatever_the_schema_says() -> None:
    assert NAMES == ("a", "b", "c")
    assert feature_names({}) == ()


def test_exactly_the_schemas_features_lose_their_names_and_get_them_back() -> None:
    features = {"c": 3, "a": None, "b": "x"}
    stored = without_names(features, NAMES)
    assert stored == [None, "x", 3]
    assert with_names(stored, NAMES) == features


@pytest.mark.parametrize("features", [{}, {"a": 1}, {"a": 1, "b": 2, "d": 3}, {"a": 1, "b": 2, "c": 3, "d": 4}])
def test_all_others_keep_them(features: dict[str, object]) -> None:
    assert without_names(features, NAMES) is features
    assert with_names(features, NAMES) is features


def test_values_of_other_names_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        with_names([1, 2], NAMES)
