"""Operators' reading commands: models, stats, workers, devices."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from pipeline.cli.console import AsJson, console, print_json, with_client
from pipeline.client.asynchronous import AsyncScoringClient
from pipeline.contracts.stages import Stage
from pipeline.ledger.operators.stats import read_overview
from pipeline.settings import read_settings


def models(as_json: AsJson = False) -> None:
    """List the released models."""
    table = with_client(lambda client: client.releases())
    if as_json:
        print_json({"models": table.documents()})
        return
    shown = Table("model", "version", "state", "digest", "features")
    for release in table.documents():
        features = ", ".join(release["input_schema"].get("properties", {}))
        shown.add_row(release["name"], release["version"], release["state"], release["digest"][:12], features)
    console.print(shown if table.current else "no model is released: run scoreline publish")


def _overview() -> dict[str, Any]:
    settings = read_settings()

    async def read(client: AsyncScoringClient) -> dict[str, Any]:
        return await read_overview(client.store, settings)

    return with_client(read)


def workers(as_json: AsJson = False) -> None:
    """Show the workers: live, stale (late with its heartbeat) or dead (gone; shown for some minutes)."""
    known = _overview()["workers"]
    if as_json:
        print_json({"workers": known})
    elif known:
        _show_workers(known)
    else:
        console.print("no worker is known: run scoreline worker STAGE")


def _show_workers(known: Sequence[Mapping[str, Any]]) -> None:
    colours = {"live": "green", "stale": "yellow", "dead": "red"}
    table = Table("worker", "queue", "state", "last heard of", "in flight", "device", "host", "pid")
    for each in sorted(known, key=lambda worker: (list(colours).index(worker["state"]), str(worker["queue"]))):
        state = f"[{colours[each['state']]}]{each['state']}[/]"
        if each["standby"]:
            state += ", standby" + (" that serves" if each["claims"] else "")
        place = (str(each[name] or "-") for name in ("device", "host", "pid"))
        heard = f"{each['silent_s']:.0f} s ago"
        table.add_row(each["id"][:8], each["queue"] or "-", state, heard, str(each["in_flight"]), *place)
    console.print(table)


def devices(as_json: AsJson = False) -> None:
    """Show the devices that scoring runs on: their health, and what NVIDIA's driver says of them."""
    known = [
        {"worker": worker["id"], "worker_state": worker["state"], "host": worker["host"], "device": worker["device"]}
        | worker["health"]
        for worker in _overview()["workers"]
        if worker["stage"] == Stage.SCORING and worker["health"]
    ]
    if as_json:
        print_json({"devices": known})
    elif known:
        _show_devices(known)
    else:
        console.print("no scoring worker is known: run scoreline worker scoring")


def _show_devices(known: Sequence[Mapping[str, Any]]) -> None:
    colours = {"healthy": "green", "suspect": "yellow", "sick": "red"}
    table = Table(
        "worker", "host", "device", "state", "memory", "busy", "temp.", "ECC", "remapped", "Xid", "to do", "canary"
    )
    for each in sorted(known, key=lambda device: (str(device["host"]), str(device["device"]))):
        remapped = each["remapped"]
        cells = (
            each["memory_used"] is not None
            and f"{each['memory_used'] / 2**30:.1f}/{each['memory_total'] / 2**30:.0f} GiB",
            each["utilisation"] is not None and f"{each['utilisation']} %",
            each["temperature"] is not None and f"{each['temperature']} °C",
            each["ecc_errors"] is not None and str(each["ecc_errors"]),
            remapped is not None and str(remapped["correctable"] + remapped["uncorrectable"]),
            ", ".join(map(str, each["xids"])),
            each["recovery_action"],
            each["canary_ms"] is not None and f"{each['canary_ms']:.1f} ms",
        )
        state = f"[{colours[each['state']]}]{each['state']}[/]"
        gone = "" if each["worker_state"] == "live" else f" ({each['worker_state']})"
        device = f"{each['device']} {each['name'] or ''}".strip()
        table.add_row(each["worker"][:8] + gone, each["host"], device, state, *(cell or "-" for cell in cells))
    console.print(table)
    for each in known:
        for reason in (*each["reasons"], *([f"not ready: {each['full']}"] if each["full"] else [])):
            console.print(f"{each['worker'][:8]} {each['device']}: {reason}")


def stats(as_json: AsJson = False) -> None:
    """Show what waits, what is claimed, and which workers live."""
    overview = _overview()
    if as_json:
        print_json(overview)
        return
    stages = Table("stage", "waiting", "claimed", "oldest", "per second")
    for name, figures in overview["stages"].items():
        oldest = "-" if figures["oldest_age_s"] is None else f"{figures['oldest_age_s']:.1f} s"
        stages.add_row(name, str(figures["waiting"]), str(figures["claimed"]), oldest, f"{figures['rate']:.1f}")
    console.print(stages)
    _show_workers(overview["workers"])
    if overview["degraded"]:
        console.print("[red]degraded[/]: fewer than half of the expected scoring workers live; low priority is refused")
    for breaker in overview["breakers"]:
        console.print(f"[red]{breaker['name']} is {breaker['state']}[/] at {breaker['stage']}, {breaker['worker'][:8]}")
    console.print(
        f"unfinished {overview['unfinished']}, retries waiting {overview['retries_waiting']}, "
        f"dead letters {overview['dead_letters']}, durability {overview['durability']}"
    )
