"""Types of the fields that several events have, each with its meaning: ``docs/events.md`` shows it."""

from collections.abc import Sequence
from typing import Annotated

Attempt = Annotated[int, "number of the attempt, from 1"]
Category = Annotated[str, "kind of failure, see contracts/failures.py"]
Device = Annotated[str, "`cpu`, `cuda:N`, or the device's name"]
Error = Annotated[str, "the error in one line"]
Incarnation = Annotated[str, "the name under which a worker claims"]
Lane = Annotated[str, "STAGE[.POOL]/NAME@VERSION of the lane"]
Model = Annotated[str, "NAME@VERSION"]
Pid = Annotated[int, "process id of the child"]
Reason = Annotated[str, "why, in words"]
RequestId = Annotated[str, "id of the request, as its producer knows it"]
RequestIds = Annotated[Sequence[str], "ids of the requests, the first ten at most"]
Requests = Annotated[int, "how many requests"]
Seconds = Annotated[float, "for how long, in seconds"]
Stage = Annotated[str, "`preprocess`, `scoring` or `postprocess`"]
Sweeper = Annotated[str, "the name under which a sweeper leads"]
Text = Annotated[str, "what was written"]
