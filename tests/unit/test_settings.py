"""Settings are checked when they are read, one by one and against each other."""

import hashlib
import re

import pytest

from pipeline.settings import RENAMED, Settings, SettingsError, read_settings


def test_defaults_fit_together() -> None:
    settings = read_settings({})
    assert settings.store_url == "redis://127.0.0.1:6379/0"
    assert settings.max_attempts == 3


def test_a_misspelt_name_is_refused_with_the_likely_one() -> None:
    with pytest.raises(SettingsError, match=r"SCORELINE_RESULTS_TTL: did you mean SCORELINE_RESULT_TTL\?"):
        read_settings({"SCORELINE_RESULTS_TTL": "5"})


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_renamed_setting_is_refused_with_its_new_name(old: str, new: str) -> None:
    with pytest.raises(SettingsError, match=f"{old} is called {new} since"):
        read_settings({old: "1"})
    assert new.removeprefix("SCORELINE_").lower() in Settings.model_fields


@pytest.mark.parametrize(
    ("name", "value"),
    [("SCORELINE_MAX_ATTEMPTS", "0"), ("SCORELINE_DURABILITY", "everysec"), ("SCORELINE_RESULT_TTL", "soon")],
)
def test_a_bad_value_names_its_setting(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        read_settings({name: value})


@pytest.mark.parametrize(
    ("values", "relation"),
    [
        ({"HEARTBEAT_S": "2"}, "3 x HEARTBEAT_S <= LEASE_TTL_S"),
        ({"SOFT_LIMIT_S": "90"}, "SOFT_LIMIT_S < HARD_LIMIT_S"),
        ({"HARD_LIMIT_S": "4000"}, "4 x HARD_LIMIT_S + BELL_S < VISIBILITY_TIMEOUT_S"),
        ({"RESULT_TTL": "60", "IDEMPOTENCY_TTL": "61"}, "IDEMPOTENCY_TTL <= RESULT_TTL"),
        ({"LANE_SLICE_S": "3"}, "LANE_SLICE_S <= BELL_S"),
        ({"PARK_S": "3"}, "PARK_S <= BELL_S"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(values: dict[str, str], relation: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(relation)):
        read_settings({f"SCORELINE_{name}": value for name, value in values.items()})


def test_a_worker_must_be_able_to_keep_its_lease() -> None:
    """Although a heartbeat may wait for its answer as long as any call to the store."""
    assert read_settings({}).for_worker() == read_settings({})
    slow = read_settings({"SCORELINE_STORE_TIMEOUT_S": "2.5"})
    with pytest.raises(SettingsError, match=re.escape("HEARTBEAT_S + STORE_TIMEOUT_S <= LEASE_TTL_S")):
        slow.for_worker()
    longer = {"SCORELINE_STORE_TIMEOUT_S": "2.5", "SCORELINE_LEASE_TTL_S": "3.5"}
    assert read_settings(longer).for_worker().store_timeout_s == 2.5


def test_a_shorter_result_ttl_takes_the_idempotency_ttl_along() -> None:
    assert read_settings({"SCORELINE_RESULT_TTL": "60"}).idempotency_ttl == 60


def test_keys_are_given_as_digests_never_as_keys() -> None:
    digest = hashlib.sha256(b"secret").hexdigest()
    assert read_settings({"SCORELINE_API_KEYS": f" {digest.upper()} ,"}).api_keys == {digest}
    with pytest.raises(SettingsError, match="SHA-256"):
        read_settings({"SCORELINE_API_KEYS": "secret"})


def test_variables_of_others_are_left_alone() -> None:
    assert read_settings({"PATH": "/bin", "SCORELINER": "x"}) == read_settings({})
