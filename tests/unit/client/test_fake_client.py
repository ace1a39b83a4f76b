"""The fake client: the same methods and documents as the real one, from memory."""

import inspect
from collections.abc import Mapping
from typing import Any

import pytest

from pipeline.client import FakeScoringClient, ScoringClient
from pipeline.contracts.failures import InvalidInput
from pipeline.contracts.problems import AlreadyEnded, IdempotencyMismatch, InvalidRequest, NotFound, StoreUnavailable
from pipeline.contracts.status import Status


def score(model: str, features: Mapping[str, Any]) -> dict[str, Any]:
    if features["n"] < 0:
        raise InvalidInput("n was negative; allowed: 0 and more")
    return {"score": 1 / features["n"], "model": model}


def public_methods(client: type) -> dict[str, inspect.Signature]:
    named = inspect.getmembers(client, inspect.isfunction)
    return {name: inspect.signature(method) for name, method in named if not name.startswith("_")}


def test_it_has_the_real_clients_methods() -> None:
    real, fake = public_methods(ScoringClient), public_methods(FakeScoringClient)
    assert real.keys() - fake.keys() == {"releases"}
    assert fake.keys() - real.keys() == {"finish"}
    for name in real.keys() & fake.keys():
        assert fake[name] == real[name], name


def test_it_answers_with_what_it_was_given() -> None:
    with FakeScoringClient(score) as client:
        accepted = client.submit("m@2", {"n": 4}, priority="high")
        assert (accepted["state"], accepted["priority"]) == ("queued", "high")
        ended = client.wait(accepted["request_id"])
        assert set(ended) == set(Status.__annotations__)
        assert (ended["state"], ended["result"], ended["scored_by"]) == (
            "succeeded", {"score": 0.25, "model": "m@2"}, "m@2",
        )  # fmt: skip
        states = [end["state"] for end in client.score_many({"model": "m", "features": {"n": n}} for n in (1, -1, 0))]  # type: ignore[index]
        assert states == ["succeeded", "invalid", "dead"]
        assert [request.features["n"] for request in client.submitted] == [4, 1, -1, 0]


def test_it_refuses_as_the_real_one() -> None:
    def away(model: str, features: Mapping[str, Any]) -> dict[str, Any]:
        raise StoreUnavailable("down")

    client = FakeScoringClient(away)
    with pytest.raises(StoreUnavailable):
        client.submit("m", {})
    with pytest.raises(InvalidRequest):
        client.submit("m", {}, timeout_s=0)
    refused = list(client.submit_many([{"model": "m"}, {"model": "m", "features": {}}]))
    assert [type(problem) for problem in refused] == [InvalidRequest, StoreUnavailable]
    unknown = "01890a5d-ac96-774b-bcce-b302099a8057"
    with pytest.raises(NotFound):
        client.get(unknown)
    (answer,) = client.get_many([unknown])
    assert isinstance(answer, NotFound)
    with pytest.raises(InvalidRequest):
        client.get("nonsense")


def test_keys_and_cancelling() -> None:
    client = FakeScoringClient(score, held=True)
    first = client.submit("m", {"n": 1}, idempotency_key="k")
    assert client.submit("m", {"n": 1.0}, idempotency_key="k") == first
    with pytest.raises(IdempotencyMismatch):
        client.submit("m", {"n": 2}, idempotency_key="k")
    assert client.wait(first["request_id"])["state"] == "queued"
    client.finish(first["request_id"])
    with pytest.raises(AlreadyEnded):
        client.cancel(first["request_id"])
    other = client.submit("m", {"n": 2})["request_id"]
    assert client.cancel(other)["state"] == "cancelled"
    assert client.cancel(other) == client.get(other)
