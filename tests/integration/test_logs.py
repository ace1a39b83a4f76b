"""The logs of all services: JSON lines and nothing else, from start to stop, with the ids of requests that failed."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline.settings import read_settings
from pipeline.stack.local import LocalStack
from pipeline.telemetry.__main__ import document
from pipeline.telemetry.event import Event
from tests.support.requests import APPLICATION, end_of, probe

NO_SERVICES = {"store", "flower", "supervisord"}
DEEDS = {"good": "ok", "raises": "raise", "kills its process": "crash", "hangs": "hang"}


class Story:
    """What became of a few requests, and all that the services have said from start to stop."""

    def __init__(self, folder: Path) -> None:
        environment = {
            "SCORELINE_BACKOFF_BASE_S": "0.05",
            "SCORELINE_MAX_ATTEMPTS": "2",
            "SCORELINE_SOFT_LIMIT_S": "3",
            "SCORELINE_HARD_LIMIT_S": "5",
        }
        running = LocalStack(read_settings({}), data_dir=folder, chaos_model=True, environment=environment)
        with running as stack, httpx.Client(base_url=stack.api_url, timeout=40) as http:
            bodies = {name: probe(deed) for name, deed in DEEDS.items()}
            bodies["invalid"] = {"model": "credit-default", "features": APPLICATION | {"Seniority": "many"}}
            self.ends: dict[str, dict[str, Any]] = {}
            for name, body in bodies.items():  # one by one: else they are one batch, and its death is charged to all
                accepted = http.post("/v1/scores", json=body).json()
                self.ends[name] = end_of(http, accepted["request_id"], within_s=60)
        logs = {path.stem: path.read_text() for path in (folder / "logs").glob("*.log")}
        self.logs = {name: text.splitlines() for name, text in logs.items() if name.split("-")[0] != "probe"}

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for name in self.logs.keys() - NO_SERVICES for line in self.logs[name]]

    def of(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line.get("request_id") == self.ends[name]["request_id"]]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return Story(tmp_path_factory.mktemp("logs"))


def test_every_line_of_every_service_is_json_with_event_level_and_timestamp(story: Story) -> None:
    services = story.logs.keys() - NO_SERVICES
    assert {"api", "preprocess", "scoring", "postprocess"} <= services
    assert all(story.logs[name] for name in services)
    assert any(name.startswith("sweeper") for name in services)
    document()  # the whole table
    for line in story.lines():
        assert line["event"] in Event.TABLE, line
        assert line["level"] in {"info", "warning", "error", "critical"}
        assert line["timestamp"].endswith("Z")
        assert line["service"]


def test_a_failed_request_is_found_by_its_id_with_model_stage_and_attempt(story: Story) -> None:
    assert story.ends["raises"]["state"] == "dead"
    lines = story.of("raises")
    assert [(line["event"], line["attempt"]) for line in lines] == [("request_retried", 1), ("request_dead", 2)]
    assert {(line["model"], line["stage"]) for line in lines} == {("chaos-probe@1", "scoring")}
    assert {line["service"] for line in lines} == {"worker-scoring"}
    assert lines[-1]["error"] == story.ends["raises"]["error"]["message"]


def test_a_request_that_kills_its_process_is_named_when_its_claims_are_released(story: Story) -> None:
    assert story.ends["kills its process"]["state"] == "dead"
    request_id = story.ends["kills its process"]["request_id"]
    released = [line for line in story.lines() if line["event"] == "claims_released"]
    assert any(request_id in line["request_ids"] and line["lane"] == "scoring/chaos-probe@1" for line in released)
    assert story.of("kills its process")[-1]["event"] == "request_dead"


def test_the_stacks_of_a_batch_that_hangs_are_an_event(story: Story) -> None:
    stacks = "\n".join(line["text"] for line in story.lines() if line["event"] == "stderr_text")
    assert "chaos_probe.py" in stacks
    assert "most recent call first" in stacks
    assert {line["category"] for line in story.of("hangs")} == {"hang"}


def test_invalid_input_is_told_and_what_succeeds_is_not(story: Story) -> None:
    assert [(line["event"], line["stage"]) for line in story.of("invalid")] == [("request_invalid", "preprocess")]
    assert story.ends["good"]["state"] == "succeeded"
    assert story.of("good") == []
