"""JSON as its standard says (RFC 8259), and nothing that Python's own reader takes beside it.

``json.loads`` keeps the last of two equal names, and reads ``NaN``, ``Infinity`` and ``1e999``. Each of these gives a
document that its writer did not mean.
"""

import json
import math
from typing import Any


class NotStrict(ValueError):
    """The text is no JSON, or JSON that two readers read differently. The message says where, or what."""


def parse(text: str | bytes) -> Any:
    r"""The document in ``text`` (bytes: UTF-8); NotStrict if a name comes twice in an object or a number is not finite.

    A text that cannot be stored as UTF-8 (half of a surrogate pair, as ``"\ud800"``) is refused as well.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode()
        document = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite)
        if "\\u" in text:
            json.dumps(document, ensure_ascii=False).encode()
    except NotStrict:
        raise
    except UnicodeDecodeError as error:
        raise NotStrict(f"not UTF-8: byte 0x{error.object[error.start]:02x} at position {error.start}") from None
    except UnicodeEncodeError:
        raise NotStrict(r"half of a surrogate pair (\ud800 to \udfff) is no character") from None
    except RecursionError:
        raise NotStrict("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise NotStrict(f"not JSON: {error}") from None
    except ValueError:  # Python's bound on the digits of an integer
        raise NotStrict("a number has too many digits") from None
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise NotStrict(f"the name {twice!r} comes twice in one object")
    return document


def _no_constant(name: str) -> Any:
    raise NotStrict(f"{name} is not JSON: write null where there is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise NotStrict(f"the number {text} is too large for a double")
    return value
