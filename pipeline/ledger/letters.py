"""Dead letters as they are stored: a request that was given up, whole."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgpack

from pipeline.contracts.attempts import Attempt
from pipeline.contracts.ids import rfc3339, to_text
from pipeline.contracts.stages import Stage
from pipeline.contracts.work import Ended, Header, Work
from pipeline.ledger.records import header_of, unpack_entry


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter. ``stage_input`` is what the stage that died was given, as stored: a replay resumes there.

    ``id`` is that of the computation that died; ``died`` are the requests that died with it.
    """

    id: bytes
    prefix: bytes
    header: Header
    stage: Stage
    category: str
    message: str
    features: Mapping[str, Any]
    stage_input: bytes
    attempts: tuple[Attempt, ...]
    died_ms: float
    died: tuple[bytes, ...]
    died_at: bytes
    """Its score among the letters: the same moment, as the store has it."""

    @property
    def fingerprint(self) -> str:
        """The same for letters with the same cause: stage, category and message without its numbers."""
        cause = f"{self.stage}|{self.category}|{re.sub(r'[0-9]+', '#', self.message)}"
        return hashlib.sha256(cause.encode()).hexdigest()[:12]

    def document(self) -> dict[str, Any]:
        """The letter as operators read it."""
        attempts = [{**entry._asdict(), "at": rfc3339(entry.at)} for entry in self.attempts]
        return {
            "id": to_text(self.id),
            "request_ids": [to_text(request_id) for request_id in self.died],
            "model": self.header.model,
            "model_version": self.header.version,
            "stage": str(self.stage),
            "category": self.category,
            "message": self.message,
            "fingerprint": self.fingerprint,
            "input": self.features,
            "attempts": attempts,
            "died_at": rfc3339(self.died_ms),
            "generation": self.header.generation,
        }


def pack_letter(work: Work, outcome: Ended, stage: Stage, record: bytes | None, now_ms: float) -> bytes:
    """The stored form of a new dead letter. ``record``: the request's record, which holds its input."""
    return msgpack.packb(
        {
            "front": work.prefix,
            "stage": str(stage),
            "category": outcome.error["category"],
            "message": outcome.error["message"],
            "features": _features(record),
            "stage_input": work.blob,
            "attempts": outcome.attempts.errors,
            "died_ms": now_ms,
        }
    )


def _features(record: bytes | None) -> Any:
    try:
        return unpack_entry(record or b"").body
    except (ValueError, TypeError):
        return {}  # it died of being unreadable; the letter's message says so


def unpack_letter(request_id: bytes, stored: dict[str, Any], members: list[bytes], score: float) -> Letter:
    """A letter from its stored form, the requests that died with it, and its score among the letters."""
    return Letter(
        request_id,
        stored["front"],
        header_of(stored["front"]),
        Stage(stored["stage"]),
        stored["category"],
        stored["message"],
        stored["features"],
        stored["stage_input"],
        tuple(Attempt(*entry) for entry in stored["attempts"]),
        stored["died_ms"],
        tuple(members) or (request_id,),
        b"%d" % score,
    )
