"""Access: bearer keys, known by their SHA-256 digests, compared in constant time."""

import hashlib
import hmac
from collections.abc import Collection

from fastapi import Request

from pipeline.contracts.problems import Forbidden, Unauthorized
from pipeline.contracts.tenants import WITHOUT_KEYS, Caller, Role, tenant_of_digest
from pipeline.settings import Settings


class Access:
    """The callers that the settings' keys stand for. Without any keys set, every caller may do everything."""

    def __init__(self, settings: Settings) -> None:
        self._producers = settings.api_keys
        self._operators = settings.operator_keys
        self._callers = {digest: Caller(tenant_of_digest(digest), Role.PRODUCER) for digest in settings.api_keys} | {
            digest: Caller(tenant_of_digest(digest), Role.OPERATOR) for digest in settings.operator_keys
        }

    def caller(self, request: Request) -> Caller:
        """The caller of a producers' route; Unauthorized. Operators may do what producers may."""
        if not self._producers:
            return WITHOUT_KEYS
        digest = self._digest(request)
        if not _among(digest, self._callers.keys()):
            raise Unauthorized("send a known key: Authorization: Bearer KEY")
        return self._callers[digest]

    def operator(self, request: Request) -> Caller:
        """The caller of an operators' route; Unauthorized without a key, Forbidden for a producer's."""
        if not self._producers and not self._operators:
            return WITHOUT_KEYS
        digest = self._digest(request)
        if _among(digest, self._operators):
            return self._callers[digest]
        if _among(digest, self._producers):
            raise Forbidden("this needs an operator's key (SCORELINE_OPERATOR_KEYS)")
        raise Unauthorized("send an operator's key: Authorization: Bearer KEY")

    @staticmethod
    def _digest(request: Request) -> str:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Unauthorized("a key is needed: Authorization: Bearer KEY")
        return hashlib.sha256(key.strip().encode()).hexdigest()


def _among(digest: str, known: Collection[str]) -> bool:
    # Compares every known digest: the time it takes does not depend on which one fits.
    return sum(hmac.compare_digest(digest, other) for other in known) > 0
