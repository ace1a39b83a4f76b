"""``scoreline load``: what a running deployment does with requests that arrive at a rate, whatever becomes of them."""

import asyncio
import itertools
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, cast, get_args

import typer
from rich.table import Table

from pipeline.cli.console import BAD_OUTCOME, UNREACHABLE, AsJson, console, errors, fail, print_json
from pipeline.cli.extras import require
from pipeline.contracts.envelope import PriorityName
from pipeline.contracts.problems import StoreUnavailable
from pipeline.contracts.strict_json import NotStrict, parse
from pipeline.load.generator import LoadGenerator, Tally
from pipeline.load.targets import NO_ANSWER, ApiUnusable, api_target, store_target
from pipeline.samples.credit_data import read_applications

UNKNOWN = (StoreUnavailable.slug, NO_ANSWER)
"""Submits that failed so may have been accepted all the same."""
LATE_MS = 50.0
"""A generator that sends later than this measures itself as well."""
SHOW_S = 0.5


def load(
    rate: Annotated[float, typer.Option(min=0.1, max=1_000_000, help="Requests per second, Poisson arrivals.")],
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to offer them.")] = 60,
    model: Annotated[str, typer.Option(help="MODEL or MODEL@VERSION.")] = "credit-default",
    features: Annotated[
        str | None, typer.Option(help="JSON of every request's features (default: real loan applications, each once).")
    ] = None,
    timeout_s: Annotated[float, typer.Option(min=0.1, max=86_400, help="The requests' deadline.")] = 10,
    priority: Annotated[str, typer.Option(help=" | ".join(get_args(PriorityName)))] = "normal",
    seed: Annotated[int, typer.Option(help="Of the arrivals.")] = 1,
    api: Annotated[str | None, typer.Option(help="Send to the API at this URL instead of to the store.")] = None,
    api_key: Annotated[str | None, typer.Option(help="The API's key.")] = None,
    as_json: AsJson = False,
) -> None:
    """Offer requests at a rate to a running deployment, each once, and see what becomes of them (Ctrl-C stops early).

    Exit code 1 if anything accepted was lost or did not end.
    """
    if priority not in get_args(PriorityName):
        allowed = ", ".join(get_args(PriorityName))
        raise typer.BadParameter(f"{priority!r}; allowed: {allowed}", param_hint="--priority")
    if api is not None:
        require("local", "--api")
    rows = unique_rows() if features is None else itertools.repeat(_object(features))
    chosen = (model, cast(PriorityName, priority), timeout_s)

    async def run() -> tuple[Tally, bool]:
        async with store_target(*chosen) if api is None else api_target(api, api_key, *chosen) as target:
            generator = LoadGenerator(target, rows, rate=rate, timeout_s=timeout_s, seed=seed)
            return await _watched(generator, seconds), generator.interrupted

    try:
        tally, interrupted = asyncio.run(run())
    except ApiUnusable as error:
        fail(str(error), UNREACHABLE)
    document = {
        "to": api or "store",
        "model": model,
        "rate": rate,
        "timeout_s": timeout_s,
        "priority": priority,
        "seed": seed,
        "interrupted": interrupted,
        **summary(tally),
    }
    if as_json:
        print_json(document)
    else:
        _show(document)
    if tally.unfinished or tally.lost:
        sys.exit(BAD_OUTCOME)


def _object(text: str) -> Mapping[str, Any]:
    try:
        value = parse(text)
    except NotStrict as error:
        raise typer.BadParameter(str(error), param_hint="--features") from None
    if not isinstance(value, dict):
        raise typer.BadParameter("expected a JSON object", param_hint="--features")
    return value


def unique_rows() -> Iterator[Mapping[str, Any]]:
    """Real applications for ever, each with a price of its own."""
    rows = [application.features for application in read_applications()]
    for number in itertools.count():
        yield rows[number % len(rows)] | {"Price": 100 + number / 1000}


async def _watched(generator: LoadGenerator, seconds: float) -> Tally:
    """Run it with a line of progress; the first Ctrl-C stops the generator, the second the waiting too."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, generator.stop)
    running = asyncio.create_task(generator.run(seconds))
    with errors.status("starting") as line:
        while not running.done():
            tally = generator.tally
            state = "waiting for the ends (Ctrl-C: do not wait)" if generator.interrupted else "running"
            line.update(
                f"{state}: offered {tally.offered}, accepted {tally.accepted}, refused {tally.refused.total()}, "
                f"unfinished {tally.unfinished}"
            )
            await asyncio.wait({running}, timeout=SHOW_S)
    return await running


def summary(tally: Tally) -> dict[str, Any]:
    """The tally as ``--json`` prints it. ``unknown``: no answer was heard, also of what was cut off by Ctrl-C."""
    refused = {slug: count for slug, count in tally.refused.most_common() if slug not in UNKNOWN}
    return {
        "seconds": round(tally.seconds, 2),
        "offered": tally.offered,
        "held_back": tally.held_back,
        "accepted": tally.accepted,
        "refused": refused,
        "unknown": tally.offered - tally.held_back - tally.accepted - sum(refused.values()),
        "ended": dict(tally.ended.most_common()),
        "unfinished": tally.unfinished,
        "lost": tally.lost,
        "goodput_per_s": round(tally.good / tally.seconds, 1),
        "latency_ms": tally.latency.milliseconds(),
        "seen_ms": tally.seen.milliseconds(),
        "send_lag_ms": tally.lag.milliseconds(),
        "p99_within_deadline": tally.in_time >= 0.99 * tally.accepted if tally.accepted else None,
    }


def _show(document: dict[str, Any]) -> None:
    table = Table(
        show_header=False,
        title=f"{document['rate']:g} requests/s of {document['model']} to {document['to']}, deadline "
        f"{document['timeout_s']:g} s" + (", interrupted" if document["interrupted"] else ""),
    )
    refused = [f"{count} {slug}" for slug, count in document["refused"].items()]
    within = {True: "yes", False: "[red]no[/]", None: "-"}[document["p99_within_deadline"]]
    for name, value in (
        ("offered", f"{document['offered']} in {document['seconds']:g} s, until the last end"),
        ("accepted", document["accepted"]),
        ("refused", ", ".join(refused) or "none"),
        ("no answer", f"{document['unknown']}" + (" (accepted or not: unknown)" if document["unknown"] else "")),
        ("ended", ", ".join(f"{count} {state}" for state, count in document["ended"].items()) or "none"),
        ("not ended / lost", f"{document['unfinished']} / {document['lost']}"),
        ("goodput", f"{document['goodput_per_s']:g} /s succeeded within their deadline"),
        ("submit to end", _times(document["latency_ms"])),
        ("arrival to end seen", _times(document["seen_ms"])),
        ("accepted p99 within deadline", within),
        ("sent late by", _times(document["send_lag_ms"])),
    ):
        table.add_row(name, str(value))
    console.print(table)
    if document["unfinished"] or document["lost"]:
        bad = document["unfinished"] + document["lost"]
        console.print(f"[red]{bad} accepted requests did not end[/]", highlight=False)
    if document["held_back"]:
        console.print(f"[red]{document['held_back']} were never sent: the generator held as many as it can[/]")
    if (document["send_lag_ms"]["p99"] or 0.0) > LATE_MS:
        console.print("[yellow]this generator could not keep up: its own delay is part of what was seen[/]")


def _times(milliseconds: dict[str, float | None]) -> str:
    return "  ".join("-" if value is None else f"{name} {value:.1f} ms" for name, value in milliseconds.items())
