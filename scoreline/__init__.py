"""What users import: the clients of Scoreline, and their problems.

``ScoringClient``       submits requests and reads how they stand, many calls to a round trip
``AsyncScoringClient``  the same for asyncio
``FakeScoringClient``   the same methods for tests of your own, answered from memory
``problems``            what a call may be refused for, an exception each; ``problems.Problem`` is all of them

``import scoreline`` needs the base install only. Everything else of the distribution is not for import.
"""

from pipeline.client import AsyncScoringClient, FakeScoringClient, ScoringClient
from scoreline import problems

__all__ = ["AsyncScoringClient", "FakeScoringClient", "ScoringClient", "problems"]
