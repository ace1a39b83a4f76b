"""Clients for producers inside the network: they speak to the store directly, many calls to a round trip."""

from pipeline.client.asynchronous import AsyncScoringClient
from pipeline.client.fake import FakeScoringClient
from pipeline.client.synchronous import ScoringClient

__all__ = ["AsyncScoringClient", "FakeScoringClient", "ScoringClient"]
