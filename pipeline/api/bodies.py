"""Bodies: bounded JSON in, JSON and problem documents out."""

import json
from typing import Any

import orjson
from fastapi import Request, Response

from pipeline.contracts.problems import BodyTooLarge, MalformedJson, Problem


class JsonResponse(Response):
    """A document as JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The document as bytes."""
        return to_json(content)


def to_json(document: Any) -> bytes:
    """A document as JSON, even if it quotes text that is not valid Unicode (a lone surrogate)."""
    try:
        return orjson.dumps(document)
    except TypeError:
        return json.dumps(document).encode()


def problem_response(problem: Problem) -> Response:
    """The response for a problem, as in RFC 9457."""
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
    """The document in a body of strict JSON, or with the NaN and Infinity that many encoders write; MalformedJson.

    Preprocess refuses those two, and names the feature.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if b"NaN" in body or b"Infinity" in body:
            try:
                return json.loads(body)
            except (ValueError, RecursionError):
                pass  # it is malformed for another reason, which the strict parser names
        raise MalformedJson(f"the body is not JSON: {error}") from None
