"""Clients for producers inside the network: they speak to the store directly, many calls to a round trip.

``asynchronous`` the client for asyncio
``synchronous``  the client for threads: the asynchronous one in a thread of its own (``background``)
``fake``         both clients for users' own tests, answered from ``memory``
``core``         what clients and API share: the connections of one event loop, and the calls that they carry
``streaming``    any number of requests, in chunks; ``input_chunks`` reads the caller's iterable
``waiting``      waits for the ends of requests
``coalescing``   concurrent calls share round trips; ``deadlines`` ends those that wait too long
``retrying``     outlasts outages and refusals that pass; ``limits`` gives each call one time for all of it
``forks``        clients start again in forked processes
"""

from pipeline.client.asynchronous import AsyncScoringClient
from pipeline.client.fake import AsyncFakeScoringClient, FakeScoringClient
from pipeline.client.synchronous import ScoringClient

__all__ = ["AsyncFakeScoringClient", "AsyncScoringClient", "FakeScoringClient", "ScoringClient"]
