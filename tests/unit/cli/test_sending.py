"""Submitting a file's rows: what reading them raises ends it, as it is."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.cli.rows import BadFile
from pipeline.cli.submitting import Sending
from pipeline.client import AsyncScoringClient


def test_a_file_that_turns_bad_while_it_is_sent_is_named() -> None:
    """It was checked before, but may have been written to since."""

    def rows() -> Iterator[dict[str, Any]]:
        raise BadFile("row 1 is not JSON")
        yield {}

    async def check() -> None:
        async with AsyncScoringClient(retry_for_s=0) as client:
            await Sending(rows(), lambda _: None).run(client)

    with pytest.raises(BadFile, match="row 1"):
        asyncio.run(check())
