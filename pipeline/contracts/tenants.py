"""Tenants: which key a request belongs to, and which callers may see it.

A tenant is whoever an API key stands for. Its requests, idempotency keys, cached answers and limits are its own. What
comes without a key - through the store's own client, or where no keys are set - is the nameless tenant's.
"""

from enum import StrEnum
from typing import NamedTuple

TENANT_ID_BYTES = 8
NOBODY = bytes(TENANT_ID_BYTES)
"""The nameless tenant's id. It has no limits, so nothing is counted for it (see ``lua/prelude/base.lua``)."""


class Tenant(NamedTuple):
    """``name``: the scope of its idempotency keys. ``id``: 8 bytes that stand for it in records and cache keys."""

    name: str = ""
    id: bytes = NOBODY


def tenant_of_digest(digest: str) -> Tenant:
    """The tenant of a nameless API key, by the key's SHA-256 digest in hex."""
    return Tenant(digest, bytes.fromhex(digest[: 2 * TENANT_ID_BYTES]))


class Role(StrEnum):
    """What a caller may see. The store's own client sees what the store sees, and so does an operator."""

    PRODUCER = "producer"
    OPERATOR = "operator"
    STORE = "store"


class Caller(NamedTuple):
    """The reader or canceller of a request: its tenant and its role."""

    tenant: Tenant
    role: Role

    def sees(self, tenant_id: bytes) -> bool:
        """Whether it may see a tenant's request.

        No tenant is noted of what a release before tenants has accepted. Any key that knows such an id sees it,
        as before: whoever polls for it during an upgrade gets its answer.
        """
        return self.role is not Role.PRODUCER or not tenant_id or tenant_id == self.tenant.id

    def cancelled(self, tenant_id: bytes) -> str:
        """By whom a tenant's request was cancelled, if this caller does it."""
        if self.role is Role.STORE:
            return "cancelled through the store"
        if self.role is Role.PRODUCER or (tenant_id or NOBODY) == self.tenant.id:
            return "cancelled by its producer"
        return "cancelled by an operator"


NAMELESS = Tenant()
STORE = Caller(NAMELESS, Role.STORE)
"""The store's own client."""
WITHOUT_KEYS = Caller(NAMELESS, Role.OPERATOR)
"""Whoever calls an API that has no keys set: it may do everything."""
