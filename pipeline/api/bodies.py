"""Bodies: bounded JSON in, JSON and problem documents out."""

import json
from typing import Any

import orjson
from fastapi import Request, Response

from pipeline.contracts.envelope import check_key
from pipeline.contracts.problems import BodyTooLarge, InvalidRequest, MalformedJson, Problem


class JsonResponse(Response):
    """A document as JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The document as bytes."""
        return to_json(content)


def to_json(document: Any) -> bytes:
    """A document as JSON, also where it quotes text that is no Unicode (a lone surrogate)."""
    try:
        return orjson.dumps(document)
    except TypeError:
        return json.dumps(document).encode()


def problem_response(problem: Problem) -> Response:
    """A problem as RFC 9457 has it."""
    headers = {} if problem.retry_after_s is None else {"Retry-After": str(problem.retry_after_s)}
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(
        to_json(problem.document()),
        status_code=problem.status,
        media_type="application/problem+json",
        headers=headers,
    )


async def read_json(request: Request, limit: int) -> Any:
    """The request's body, parsed; BodyTooLarge before more than ``limit`` bytes are held, MalformedJson."""
    too_large = BodyTooLarge(f"the body is larger than {limit} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large
    return parse_json(bytes(body))


def parse_json(body: bytes) -> Any:
    """Strict JSON, and the NaN and Infinity that many encoders write: preprocess refuses those, naming the feature."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if b"NaN" in body or b"Infinity" in body:
            try:
                return json.loads(body)
            except (ValueError, RecursionError):
                pass  # it is malformed for another reason, which the strict parser names
        raise MalformedJson(f"the body is not JSON: {error}") from None


def idempotency_key(request: Request) -> str | None:
    """The header ``Idempotency-Key``; None without, InvalidRequest if it cannot be one."""
    key = request.headers.get("idempotency-key")
    try:
        return None if key is None else check_key(key)
    except InvalidRequest as wrong:
        message = "allowed: 1 to 255 visible ASCII characters"
        errors = [{"pointer": "/Idempotency-Key", "message": message}]
        raise InvalidRequest(f"the header Idempotency-Key is not valid; {message}", errors=errors) from wrong


def no_cache(request: Request) -> bool:
    """Whether the header ``Cache-Control`` says ``no-cache``: to compute anew."""
    directives = request.headers.get("cache-control", "").lower().split(",")
    return "no-cache" in map(str.strip, directives)


def wait_seconds(request: Request) -> float:
    """The ``wait`` of the query, 0 to 30 seconds; InvalidRequest."""
    text = None
    for field in request.scope["query_string"].split(b"&"):  # a number needs no escapes, and its parser much CPU
        name, _, value = field.partition(b"=")
        if name == b"wait":
            text = value.decode("latin-1")
    if text is None:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 30:
        message = f"wait was {text[:40]!r}; allowed: a number of seconds from 0 to 30"
        raise InvalidRequest(message, errors=[{"pointer": "/wait", "message": message}])
    return seconds
