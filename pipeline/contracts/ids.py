"""Request ids: UUIDv7 (RFC 9562), 16 bytes in the store, text outside.

The store stamps the 48 bits of time when it accepts a request; the producer draws the rest at random.
"""

import os
import re
from datetime import UTC, datetime
from functools import lru_cache

from pipeline.contracts.problems import InvalidRequest

_TEXT = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$", re.IGNORECASE)
_VERSION = bytes(0x70 | byte & 0x0F for byte in range(256))
_VARIANT = bytes(0x80 | byte & 0x3F for byte in range(256))
"""Tables that map each random byte to one with the version's four bits, or the variant's two, set."""


def random_tails(count: int) -> list[bytes]:
    """The last ten bytes of ``count`` ids: version and variant set, 74 bits random.

    Ascending: requests that are accepted in one millisecond are claimed in the order in which they were submitted.
    """
    noise = bytearray(os.urandom(10 * count))
    noise[::10] = noise[::10].translate(_VERSION)
    noise[2::10] = noise[2::10].translate(_VARIANT)
    return sorted(bytes(noise[start : start + 10]) for start in range(0, 10 * count, 10))


def to_text(request_id: bytes) -> str:
    """The canonical text form of a 16-byte id."""
    digits = request_id.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def from_text(text: str) -> bytes:
    """The 16 bytes of a UUIDv7 in text form; ValueError if it is not one."""
    if not isinstance(text, str) or not _TEXT.match(text):
        raise ValueError(f"{text!r} is not a request id: a request id is a UUID of version 7")
    return bytes.fromhex(text.replace("-", ""))


def parse_id(text: str, field: str = "request_id") -> bytes:
    """The 16 bytes of an id that a caller gave in ``field``; InvalidRequest with a pointer to it if it is malformed."""
    try:
        return from_text(text)
    except ValueError as error:
        raise InvalidRequest(str(error), errors=[{"pointer": f"/{field}", "message": str(error)}]) from None


def accepted_ms(request_id: bytes) -> int:
    """When the store accepted the request: Unix milliseconds."""
    return int.from_bytes(request_id[:6], "big")


def rfc3339(unix_ms: float | None) -> str | None:
    """Unix milliseconds as RFC 3339 in UTC with milliseconds; None stays None."""
    if unix_ms is None:
        return None
    seconds, millis = divmod(int(unix_ms), 1000)
    return f"{_second(seconds)}.{millis:03d}Z"


@lru_cache(maxsize=1024)
def _second(unix_s: int) -> str:
    # Documents of one batch share their seconds; formatting one takes longer than all the rest of a document.
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")
