"""The checker: what a producer has seen, beside what the ledger has committed, and what the model says offline.

Pure functions over plain values, so that it can be given histories with known faults in them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

TOLERANCE = 1e-6
Answer = Literal["accepted", "refused", "unknown"]


@dataclass(slots=True)
class Sent:
    """One request as its producer knows it.

    ``answer``: what its submit came to; ``unknown`` if no answer was heard (it may have ended or be absent, not twice).
    ``read``: every status document with an end that was read, in order; the last one at the very end of the run.
    ``standing``: the state or problem read last, if that was no end.
    """

    key: bytes
    model: str
    features: Mapping[str, Any]
    answer: Answer = "unknown"
    request_id: str | None = None
    read: list[Mapping[str, Any]] = field(default_factory=list)
    standing: str | None = None
    poison: bool = False


@dataclass(frozen=True, slots=True)
class Commit:
    """One terminal commit, from the ledger's own log."""

    request_id: str
    generation: int
    key: bytes


@dataclass(frozen=True, slots=True)
class Expected:
    """What the model gives offline. ``near_band``: its score is so near a band's edge that either decision is right."""

    result: Mapping[str, Any]
    near_band: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many of each kind, and for each fault found what is wrong, in words."""

    accepted: int
    refused: int
    unknown: int
    ended: int
    lost: int
    doubled: int
    stuck: int
    wrong: int
    findings: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing was lost, doubled, stuck or wrong."""
        return not (self.lost or self.doubled or self.stuck or self.wrong)


def check(
    sent: Sequence[Sent],
    commits: Sequence[Commit],
    expected: Mapping[bytes, Expected],
    leftovers: Sequence[str] = (),
) -> Verdict:
    """Compare what was sent with what was committed.

    ``expected``: for each key the result that the model gives offline. ``leftovers``: what is left in the ledger
    although everything should have ended.
    """
    lost: list[str] = []
    stuck: list[str] = []
    wrong: list[str] = []
    for one in sent:
        if one.answer != "accepted":
            continue
        if not one.read:
            place = f"{one.request_id}: {one.standing or 'never read'}"
            (lost if one.standing in (None, "not-found", "gone") else stuck).append(place)
            continue
        if any(document != one.read[0] for document in one.read):
            wrong.append(f"{one.request_id}: its end has changed after it was read")
        reason = _wrong(one, one.read[-1], expected.get(one.key))
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
    committed = {commit.request_id for commit in commits}
    lost += [
        f"{one.request_id}: read as {one.read[-1]['state']}, but never committed"
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
        stuck=len(stuck) + len(leftovers),
        wrong=len(wrong),
        findings=(
            *(f"lost: {text}" for text in lost),
            *(f"doubled: {text}" for text in doubled),
            *(f"stuck: {text}" for text in stuck),
            *(f"stuck: left in the ledger: {text}" for text in leftovers),
            *(f"wrong: {text}" for text in wrong),
        ),
    )


def _wrong(one: Sent, document: Mapping[str, Any], expected: Expected | None) -> str | None:
    """Why an end is not what it must be; None if it is."""
    state, result = document["state"], document["result"]
    if one.poison:
        return None if state == "dead" else f"was poison, and ended as {state}"
    if state != "succeeded":
        return f"ended as {state}: {document['error']}"
    if expected is None:
        return None
    for name, value in expected.result.items():
        given = result.get(name)
        if isinstance(value, float):
            if not isinstance(given, int | float) or abs(given - value) > TOLERANCE:
                return f"{name} is {given!r}, the model gives {value!r} offline"
        elif given != value and not expected.near_band:
            return f"{name} is {given!r}, the model gives {value!r} offline"
    return None
