"""The result of a run: as a document, and as a table."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from chaos.checker import Verdict
from chaos.injections import Injection
from chaos.load import Call
from chaos.recovery import Log, Recovery, recovery

BAD = ("lost", "doubled", "stuck", "wrong", "hung", "unmet")
GOALS_S = {"kill-child": 5.0, "kill-worker": 5.0, "kill-api": 5.0, "kill-sweeper": 5.0, "drop-bells": 2.0}
"""The recovery p99 that is promised: with two workers a stage, from the injection to the last affected request's next
start. The API holds no request: from the injection until it accepts requests again."""
SHOWN = 20
"""Findings of each kind that are shown; the counts include all."""


def document_of(
    verdict: Verdict, injections: Sequence[Injection], log: Log, facts: Mapping[str, Any], slow: Sequence[str]
) -> dict[str, Any]:
    """Returns everything about a run, for programs."""
    recoveries: dict[str, list[Recovery]] = defaultdict(list)
    for injection in injections:
        recoveries[injection.fault].append(recovery(injection, log))
    faults = {fault: _summary(found) for fault, found in sorted(recoveries.items())}
    missed = [
        f"{fault}: recovery p99 is {faults[fault]['recovery_s']['p99']:.2f} s, the goal {goal:g} s"
        for fault, goal in GOALS_S.items()
        if fault in faults and faults[fault]["recovery_s"]["p99"] > goal
    ]
    counts = ("accepted", "refused", "unknown", "ended", *BAD)
    return {
        **{name: getattr(verdict, name) for name in counts},
        **facts,
        "goals_missed": [*missed, *slow],
        "findings": _some_of_each(verdict.findings),
        "faults": faults,
        "injections": [
            {"fault": each.fault, "at_ms": round(each.at), **asdict(recovery(each, log))} for each in injections
        ],
    }


def _some_of_each(findings: Sequence[str]) -> list[str]:
    shown: Counter[str] = Counter()
    some = []
    for finding in findings:
        kind = finding.split(":")[0]
        shown[kind] += 1
        if shown[kind] <= SHOWN:
            some.append(finding)
    return some


def _summary(recoveries: Sequence[Recovery]) -> dict[str, Any]:
    seconds = sorted(one.seconds for one in recoveries)
    return {
        "count": len(seconds),
        "recovery_s": {
            "p50": round(statistics.median(seconds), 3),
            "p99": round(seconds[max(0, -(-99 * len(seconds) // 100) - 1)], 3),
            "max": round(seconds[-1], 3),
        },
        "affected": sum(one.affected for one in recoveries),
        "started_more_than_once": sum(one.again for one in recoveries),
    }


def show(document: Mapping[str, Any]) -> None:
    """Prints the document as a table."""
    console = Console(width=110, highlight=False)
    table = Table("fault", "count", "recovery p50 s", "p99 s", "max s", "requests affected", "started again")
    for name, fault in document["faults"].items():
        times = (f"{fault['recovery_s'][part]:.2f}" for part in ("p50", "p99", "max"))
        table.add_row(name, str(fault["count"]), *times, str(fault["affected"]), str(fault["started_more_than_once"]))
    console.print(table)
    for names in (("accepted", "refused", "unknown", "ended"), BAD):
        console.print("  ".join(f"{name} {document[name]}" for name in names))
    for call in document["longest_calls"][:1]:
        console.print(f"longest call: {Call(**call)}", markup=False)
    for finding in (*document["findings"], *document["goals_missed"]):
        console.print(finding, style="red", markup=False)
    if any(document[name] for name in BAD):
        console.print("not proven", style="red")
    elif document["goals_missed"]:
        console.print(
            "every accepted request ended once, with the right answer, but not proven: a goal was missed", style="red"
        )
    else:
        console.print("every accepted request ended once, with the right answer")
