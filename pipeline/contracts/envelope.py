"""The envelope of a scoring request: checked at once, before anything is stored. Features are checked by preprocess."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from pipeline.contracts.problems import InvalidRequest

PriorityName = Literal["high", "normal", "low"]
DEFAULT_TIMEOUT_S = 3600.0
Checked = TypeVar("Checked")
IdempotencyKey = Annotated[
    str,
    Field(
        pattern=r"^[\x21-\x7e]{1,255}$",
        description="1 to 255 visible ASCII characters: sent again with it, a request is accepted once",
    ),
]


class ScoreRequest(BaseModel):
    """One scoring request, as ``POST /v1/scores`` takes it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: Annotated[
        str,
        Field(
            pattern=r"^[a-z0-9][a-z0-9-]{0,63}(@[A-Za-z0-9][A-Za-z0-9._-]{0,31})?$",
            description="MODEL for its current version, or MODEL@VERSION",
            examples=["credit-default"],
        ),
    ]
    features: Annotated[dict[str, Any], Field(description="the model's input; see input_schema in /v1/models")]
    priority: PriorityName = "normal"
    timeout_s: Annotated[
        float, Field(ge=0.1, le=86_400, allow_inf_nan=False, description="seconds until an unscored request expires")
    ] = DEFAULT_TIMEOUT_S
    allow_degraded: Annotated[bool, Field(description="whether a fallback model may answer")] = True


class ScoreRow(ScoreRequest):
    """One of many: a row of ``POST /v1/scores/batch``, or a document given to a client."""

    idempotency_key: IdempotencyKey | None = None
    no_cache: Annotated[bool, Field(description="whether to compute it again, and for this request alone")] = False


_REQUEST = TypeAdapter(ScoreRequest)
_ROW = TypeAdapter(ScoreRow)
_KEY = TypeAdapter(IdempotencyKey)


def check_envelope(document: object) -> ScoreRequest:
    """The request in a parsed document; InvalidRequest with a JSON pointer (RFC 6901) to each fault."""
    return _checked(_REQUEST, document)


def check_row(document: object) -> ScoreRow:
    """The request in a row of a batch, which may carry an idempotency key; InvalidRequest as ``check_envelope``."""
    return _checked(_ROW, document)


def check_key(key: str) -> str:
    """The key, if it can be an idempotency key; InvalidRequest otherwise."""
    return _checked(_KEY, key)


def _checked(adapter: TypeAdapter[Checked], document: object) -> Checked:
    try:
        return adapter.validate_python(document)
    except ValidationError as error:
        errors = [
            {"pointer": pointer(fault["loc"]), "message": fault["msg"]}
            for fault in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        raise InvalidRequest(
            "; ".join(f"{e['pointer'] or '/'}: {e['message']}" for e in errors), errors=errors
        ) from None


def pointer(place: tuple[int | str, ...]) -> str:
    """The JSON pointer (RFC 6901) to a place in a document, given as keys and indexes."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in place)
