"""Requests that many tests send, and what they ask of a running API."""

import httpx

from pipeline.samples.credit_data import read_applications, split
from tests.support.processes import eventually

APPLICATION = split(read_applications()).held_out[0].features


def submit(http: httpx.Client, *, wait: float = 30, **fields: object) -> httpx.Response:
    body = {"model": "credit-default", "features": APPLICATION, **fields}
    return http.post("/v1/scores", json=body, params={"wait": wait} if wait else {})


def request(number: int = 0, **fields: object) -> dict:
    features = APPLICATION | {"Price": 100 + number}
    return {"model": "credit-default", "features": features, "no_cache": True, **fields}


def probe(do: str, **fields: object) -> dict:
    return {"model": "chaos-probe", "features": {"x": 1.5, "do": do, **fields}}


def end_of(http: httpx.Client, request_id: str, *, within_s: float = 30) -> dict:
    return eventually(
        lambda: (d := http.get(f"/v1/scores/{request_id}", params={"wait": 10}).json())["finished_at"] and d,
        within_s=within_s,
    )


def letter_of(http: httpx.Client, request_id: str) -> dict:
    letters = http.get("/v1/dead-letters", params={"limit": 500}).json()["items"]
    return next(letter for letter in letters if letter["id"] == request_id)


def live(http: httpx.Client) -> set[str]:
    return {worker["stage"] for worker in http.get("/v1/stats").json()["workers"] if worker["state"] == "live"}
