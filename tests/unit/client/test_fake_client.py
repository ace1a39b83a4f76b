"""The fake clients: the same methods and documents as the real ones, from memory."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from pipeline.client import AsyncFakeScoringClient, AsyncScoringClient, FakeScoringClient, ScoringClient
from pipeline.contracts.failures import InvalidInput
from pipeline.contracts.problems import (
    AlreadyEnded,
    IdempotencyMismatch,
    InvalidRequest,
    NotFound,
    StoreUnavailable,
    UnknownModel,
)
from pipeline.contracts.releases import Release
from pipeline.contracts.status import Status

UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"


def score(model: str, features: Mapping[str, Any]) -> dict[str, Any]:
    if features["n"] < 0:
        raise InvalidInput("n was negative; allowed: 0 and more")
    return {"score": 1 / features["n"], "model": model}


def row(number: int) -> dict[str, Any]:
    return {"model": "m", "features": {"n": number}}


def public_methods(client: type) -> dict[str, tuple[inspect.Signature, bool]]:
    """Signature of each public method, and whether it is a coroutine."""
    named = inspect.getmembers(client, inspect.isfunction)
    return {
        name: (inspect.signature(method), inspect.iscoroutinefunction(method))
        for name, method in named
        if not name.startswith("_")
    }


@pytest.mark.parametrize(
    ("real", "fake"), [(ScoringClient, FakeScoringClient), (AsyncScoringClient, AsyncFakeScoringClient)]
)
def test_a_fake_has_the_real_clients_methods(real: type, fake: type) -> None:
    wanted, there = public_methods(real), public_methods(fake)
    assert there.keys() - wanted.keys() == {"finish"}
    assert {name: there[name] for name in wanted} == wanted


def test_it_answers_with_what_it_was_given() -> None:
    with FakeScoringClient(score) as client:
        accepted = client.submit("m@2", {"n": 4}, priority="high")
        assert (accepted["state"], accepted["priority"]) == ("queued", "high")
        ended = client.wait(accepted["request_id"])
        assert set(ended) == set(Status.__annotations__)
        assert (ended["state"], ended["result"], ended["scored_by"]) == (
            "succeeded", {"score": 0.25, "model": "m@2"}, "m@2",
        )  # fmt: skip
        states = [end["state"] for end in client.score_many(row(n) for n in (1, -1, 0))]  # type: ignore[index]
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
    with pytest.raises(NotFound):
        client.get(UNKNOWN)
    (answer,) = client.get_many([UNKNOWN])
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


def test_its_releases_are_those_it_was_made_with() -> None:
    client = FakeScoringClient(score, releases=[Release("m", "3", "0" * 64, "", {})])
    assert client.releases().resolve("m").version == "3"
    assert client.submit("m", {"n": 1})["model_version"] == "3"
    with pytest.raises(UnknownModel):
        FakeScoringClient(score).releases().resolve("m")


def test_the_asynchronous_one_answers_as_the_synchronous_one() -> None:
    async def rows() -> AsyncIterator[dict[str, Any]]:
        for number in (1, -1, 0):
            yield row(number)

    async def check() -> None:
        async with AsyncFakeScoringClient(score) as client:
            accepted = await client.submit("m", {"n": 4}, idempotency_key="k")
            ended = await client.wait(accepted["request_id"])
            assert (accepted["state"], ended["state"]) == ("queued", "succeeded")
            assert await client.get_many([accepted["request_id"]]) == [await client.get(accepted["request_id"])]
            assert await client.submit("m", {"n": 4}, idempotency_key="k") == ended
            assert (await client.score("m", {"n": 2}))["result"] == {"score": 0.5, "model": "m"}
            for requests in (map(row, (1, -1, 0)), rows()):
                states = [end["state"] async for end in client.score_many(requests)]  # type: ignore[index]
                assert states == ["succeeded", "invalid", "dead"]
            assert [type(answer) async for answer in client.submit_many([row(1), {"model": "m"}])] == [
                dict, InvalidRequest,
            ]  # fmt: skip
            with pytest.raises(AlreadyEnded):
                await client.cancel(accepted["request_id"])
            assert (await client.releases()).current == {}
        for call in (client.submit("m", {"n": 1}), client.get(UNKNOWN), client.releases(), client.__aenter__()):
            with pytest.raises(RuntimeError, match="this client is closed"):
                await call
        with pytest.raises(RuntimeError, match="this client is closed"):
            [answer async for answer in client.submit_many([row(1)])]

    asyncio.run(check())
