"""JSONL files: one object a line, the features or a request as ``POST /v1/scores/batch`` takes it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.cli.cells import BadCell
from pipeline.cli.row_file import BadRow, RowFile, quoted
from pipeline.contracts.envelope import ScoreRequest, ScoreRow, check_row
from pipeline.contracts.problems import InvalidRequest
from pipeline.contracts.strict_json import NotStrict, parse


class JsonRows(RowFile):
    """Reads one JSON object a line; blank lines are skipped."""

    def __init__(self, path: Path, file: BinaryIO, model: str, schema: Mapping[str, Any]) -> None:
        super().__init__(path, file, model)
        # A model may have a feature named `features`: then a row is always its features.
        self._may_be_request = "features" not in schema.get("properties", {})

    def _rows(self) -> Iterator[dict[str, Any] | BadRow]:
        for line in self.lines():
            if line.strip():
                try:
                    yield self._request(line)
                except (NotStrict, BadCell) as error:
                    yield BadRow(f"{self.where()}: {error}")

    def _request(self, line: str) -> dict[str, Any]:
        row = parse(line)
        if not isinstance(row, dict):
            raise BadCell("expected an object of features")
        request = row if self._may_be_request and "features" in row else {"features": row}
        if request.get("model", self.model) != self.model:
            raise BadCell(f"the row is for the model {request['model']!r}, and --model says {self.model!r}")
        request = {**request, "model": self.model}
        try:
            check_row(request)
        except InvalidRequest as problem:
            extra = sorted(request.keys() - ScoreRequest.model_fields.keys() - ScoreRow.model_fields.keys())
            advice = f" (beside 'features' a row may hold {quoted(ScoreRow.model_fields)})" if extra else ""
            raise BadCell(problem.detail + advice) from None
        return request
