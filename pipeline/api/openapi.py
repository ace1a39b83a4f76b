"""What the OpenAPI document says of the bodies and parameters that handlers parse themselves (``call``)."""

from typing import Any

from pipeline.contracts.envelope import ScoreRequest, ScoreRow

REQUEST_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": ScoreRequest.model_json_schema()}},
    }
}
BATCH_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["requests"],
                    "additionalProperties": False,
                    "properties": {
                        "requests": {"type": "array", "maxItems": 1000, "items": ScoreRow.model_json_schema()}
                    },
                }
            }
        },
    }
}
WAIT: dict[str, Any] = {
    "name": "wait",
    "in": "query",
    "description": "seconds to wait for the end",
    "schema": {"type": "number", "minimum": 0, "maximum": 30, "default": 0},
}
KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "sent again with the same key, a request is accepted once",
    "schema": {"type": "string", "pattern": "^[\\x21-\\x7e]{1,255}$"},
}
NO_CACHE: dict[str, Any] = {
    "name": "Cache-Control",
    "in": "header",
    "description": "with no-cache the request is computed again, and for itself alone",
    "schema": {"type": "string"},
}
