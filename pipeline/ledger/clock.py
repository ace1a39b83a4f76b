"""The ledger's time: the server's clock, which all processes share, with the offset that keeps it from going back."""

from pipeline.ledger import keys
from pipeline.store.connection import AsyncClient, Client

CLOCK_BEHIND_MS = 1000
"""From here on it is worth a warning that the server's clock is behind the ledger's time."""


def ledger_ms(clock: tuple[int, int], offset: bytes | None) -> float:
    """Returns Unix milliseconds from the replies to TIME (seconds, microseconds) and to GET of ``keys.OFFSET``."""
    seconds, micros = clock
    return float(seconds * 1000 + micros / 1000 + int(offset or 0))


def server_ms(client: Client) -> float:
    """Asks the server for the ledger's time, in Unix milliseconds. Two round trips."""
    return ledger_ms(client.time(), client.get(keys.OFFSET))


async def server_ms_async(client: AsyncClient) -> float:
    """Asks for the same with an asynchronous client."""
    return ledger_ms(await client.time(), await client.get(keys.OFFSET))
