"""The checker: compares what a producer saw, what the ledger committed, and the reference results.

Pure functions over plain values, so that tests can give it histories with known faults.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from chaos.events import Claimed, Event, Released, Settled
from pipeline.contracts.ids import to_text

TOLERANCE = 1e-6
Answer = Literal["accepted", "refused", "unknown"]
Poison = Literal["", "crash", "hang", "oom", "nan", "cuda", "raise"]
TOLD = {
    "hang": ("hang",),
    "oom": ("oom",),
    "nan": ("numeric",),
    "cuda": ("cuda",),
    "raise": ("unknown",),
}
"""The category of the attempts in each poison's dead letter. A crash shows by its signal."""


@dataclass(slots=True)
class Sent:
    """One request as its producer knows it.

    ``features`` and what was ``read`` are JSON text with sorted keys: a long run holds a great many of them.
    ``answer``: what its submit returned; ``unknown`` without an answer (it may exist once or not at all).
    ``read``: every final status document that was read, in order; the last one at the very end of the run.
    ``last_state``: the state or problem read last, if it was not an end.
    ``poison``: what its every start does to its process or its model; '' for all others.
    ``degrades``: whether it may be answered by the model's fallback.
    """

    key: bytes
    model: str
    features: bytes
    answer: Answer = "unknown"
    request_id: str | None = None
    read: list[bytes] = field(default_factory=list)
    last_state: str | None = None
    poison: Poison = ""
    degrades: bool = True


@dataclass(frozen=True, slots=True)
class Commit:
    """One terminal commit, from the ledger's own log."""

    request_id: str
    generation: int
    key: bytes
    state: str = "succeeded"
    result: Mapping[str, Any] | None = None
    scored_by: str | None = None
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Expected:
    """A reference result. ``near_band``: its score is so near a band's edge that either decision is right.

    ``result``: none for poison. ``instead``: what its fallback gives, if it has one, and the fallback's name.
    """

    result: Mapping[str, Any] | None
    near_band: bool = False
    instead: "Expected | None" = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many of each kind, and for each finding what is wrong, in words."""

    accepted: int
    refused: int
    unknown: int
    ended: int
    lost: int
    doubled: int
    stuck: int
    wrong: int
    hung: int
    unmet: int
    findings: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing was lost, doubled, stuck or wrong, no call hung, and every fault did what it must."""
        return not (self.lost or self.doubled or self.stuck or self.wrong or self.hung or self.unmet)


@dataclass(frozen=True, slots=True)
class Witness:
    """Other observations of the run.

    ``leftovers``: what is left in the ledger although everything should have ended. ``letters``: the attempts in each
    poison's dead letter. ``hung``: calls that took too long. ``unmet``: what must hold of a fault and did not.
    """

    leftovers: Sequence[str] = ()
    letters: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    hung: Sequence[str] = ()
    unmet: Sequence[str] = ()


NOTHING_ELSE = Witness()


class Claims:
    """What became of each claim: settled or released, once."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.doubled: list[str] = []
        self._open: dict[tuple[str, str], Claimed] = {}
        self._closed: dict[tuple[str, str], str] = {}
        self._charges: Counter[tuple[bytes, bytes]] = Counter()
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """Adds one more event, in order."""
        if isinstance(event, Claimed):
            if event.claim in self._open or event.claim in self._closed:
                self.doubled.append(f"claim {_named(event.claim)} was made twice")
            self._open[event.claim] = event
        elif isinstance(event, Settled | Released):
            how = "settled" if isinstance(event, Settled) else "released"
            claimed = self._open.pop(event.claim, None)
            if claimed is None:
                before = self._closed.get(event.claim, "never made")
                self.doubled.append(f"claim {_named(event.claim)} was {how}, but had been {before} before")
            self._closed[event.claim] = how
            if claimed and isinstance(event, Released) and event.charge == "start":
                self._charges.update((one, other) for one in claimed.ids for other in claimed.ids if one != other)

    @property
    def stuck(self) -> list[str]:
        """Returns the claims that were neither settled nor released."""
        return [
            f"claim {_named(claim)} of {claimed.lane} ({len(claimed.ids)} requests) is neither settled nor released"
            for claim, claimed in self._open.items()
        ]

    def charged_twice(self, poison: Collection[str | None]) -> list[str]:
        """Returns requests that were charged more than one start in batches with the same poison."""
        return [
            f"{to_text(one)}: charged {count} starts on the account of {to_text(other)}"
            for (one, other), count in self._charges.items()
            if count > 1 and to_text(other) in poison and to_text(one) not in poison
        ]


def check(
    sent: Sequence[Sent],
    commits: Sequence[Commit],
    expected: Mapping[bytes, Expected],
    claims: Claims | None = None,
    witness: Witness = NOTHING_ELSE,
) -> Verdict:
    """Compares what was sent with what was committed, and with what became of each claim.

    ``expected``: for each key its reference result.
    """
    claims = claims or Claims()
    lost: list[str] = []
    stuck: list[str] = []
    wrong: list[str] = []
    for one in sent:
        if one.answer != "accepted":
            continue
        if not one.read:
            place = f"{one.request_id}: {one.last_state or 'never read'}"
            (lost if one.last_state in (None, "not-found", "gone") else stuck).append(place)
            continue
        if any(document != one.read[0] for document in one.read):
            wrong.append(f"{one.request_id}: its end has changed after it was read")
        document = json.loads(one.read[-1])
        end = Commit("", 0, b"", document["state"], document["result"], document["scored_by"], document["error"])
        reason = _wrong(one, end, expected.get(one.key))
        if document["degraded"] != (document["scored_by"] not in (None, f"{one.model}@1")):
            reason = f"degraded is {document['degraded']}, and it was scored by {document['scored_by']}"
        if reason is None and document["state"] == "dead":
            reason = _wrong_letter(one.poison, witness.letters.get(one.request_id or "", ()))
        if reason:
            wrong.append(f"{one.request_id}: {reason}")
    doubled = [
        f"{request_id} (generation {generation}): {count} commits"
        for (request_id, generation), count in Counter((c.request_id, c.generation) for c in commits).items()
        if count > 1
    ]
    ids_by_key: dict[bytes, set[str]] = {}
    for commit in commits:
        ids_by_key.setdefault(commit.key, set()).add(commit.request_id)
    doubled += [
        f"key {key.hex()}: {len(ids)} requests, {', '.join(sorted(ids))}"
        for key, ids in ids_by_key.items()
        if key and len(ids) > 1
    ]
    doubled += claims.doubled
    left = [f"left in the ledger: {text}" for text in witness.leftovers]
    stuck = claims.stuck + left + stuck  # the cause before its consequences
    wrong += _unheard(sent, commits, expected)
    wrong += claims.charged_twice({one.request_id for one in sent if one.poison})
    committed = {commit.request_id for commit in commits}
    lost += [
        f"{one.request_id}: read as {json.loads(one.read[-1])['state']}, but never committed"
        for one in sent
        if one.read and one.request_id not in committed
    ]
    answers = Counter(one.answer for one in sent)
    return Verdict(
        accepted=answers["accepted"],
        refused=answers["refused"],
        unknown=answers["unknown"],
        ended=sum(one.answer == "accepted" and bool(one.read) for one in sent),
        lost=len(lost),
        doubled=len(doubled),
        stuck=len(stuck),
        wrong=len(wrong),
        hung=len(witness.hung),
        unmet=len(witness.unmet),
        findings=(
            *(f"lost: {text}" for text in lost),
            *(f"doubled: {text}" for text in doubled),
            *(f"stuck: {text}" for text in stuck),
            *(f"wrong: {text}" for text in wrong),
            *(f"hung: {text}" for text in witness.hung),
            *(f"unmet: {text}" for text in witness.unmet),
        ),
    )


def _named(claim: tuple[str, str]) -> str:
    return f"{claim[0][:8]}/{claim[1]}"


def _unheard(sent: Sequence[Sent], commits: Sequence[Commit], expected: Mapping[bytes, Expected]) -> list[str]:
    """Returns wrong ends of requests whose submit got no answer: they have no document, but their commit has a result.

    Also ends of refused requests: a refusal says that nothing was accepted.
    """
    unheard = {one.key: one for one in sent if one.answer != "accepted"}
    found = []
    for commit in commits:
        one = unheard.get(commit.key)
        if one is not None:
            refused = (
                f"was refused ({one.last_state}), and ended as {commit.state}" if one.answer == "refused" else None
            )
            reason = refused or _wrong(one, commit, expected.get(commit.key))
            if reason:
                found.append(f"{commit.request_id}: {reason}")
    return found


def _wrong_letter(poison: str, attempts: Sequence[Mapping[str, Any]]) -> str | None:
    """Returns why a poison's dead letter is wrong: each attempt must name what failed, its process or its model."""
    if not attempts:
        return "was poison, and has no letter"
    for attempt in attempts:
        told = attempt["signal"] == "SIGKILL" if poison == "crash" else attempt["category"] in TOLD[poison]
        # Another fault may have killed its process before the poison did.
        if not told and attempt["error"] != "the worker vanished" and attempt["signal"] != "SIGKILL":
            return f"was poison ({poison}), and its letter does not say of what: {dict(attempt)}"
    return None


def _wrong(one: Sent, end: Commit, expected: Expected | None) -> str | None:
    """Returns why an end is wrong; None if it is right."""
    instead = expected.instead if expected is not None and one.degrades else None
    if instead is not None and end.scored_by == instead.name:
        expected = instead  # the fallback has answered: it does not fail on poison
    elif one.poison:
        return None if end.state == "dead" else f"was poison, and ended as {end.state} by {end.scored_by}"
    if end.state != "succeeded" or end.result is None:
        return f"ended as {end.state}: {end.error}"
    if expected is None or expected.result is None:
        return None
    for name, value in expected.result.items():
        given = end.result.get(name)
        if isinstance(value, float):
            if not isinstance(given, int | float) or abs(given - value) > TOLERANCE:
                return f"{name} is {given!r}, {end.scored_by} gives {value!r} in the reference run"
        elif given != value and not expected.near_band:
            return f"{name} is {given!r}, {end.scored_by} gives {value!r} in the reference run"
    return None
