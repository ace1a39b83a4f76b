"""The rows of a producer's file: each is read exactly as it is meant, or the file is refused.

``csv_rows``  CSV files, whose cells ``cells`` reads
``json_rows`` JSONL files
``row_file``  what both are: checked as a whole first, then read row by row
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.cli.csv_rows import CsvRows
from pipeline.cli.json_rows import JsonRows
from pipeline.cli.row_file import BadFile, RowFile


def open_rows(path: Path, model: str, schema: Mapping[str, Any], ignored: Collection[str] = ()) -> RowFile:
    """Opens ``path``, whose rows become requests of ``model`` with the input schema ``schema``; BadFile.

    ``ignored``: columns of a CSV file that are not features, and are left out on purpose.
    """
    if path.suffix == ".jsonl":
        if ignored:
            raise BadFile(f"{path}: --ignore is for the columns of a CSV file")
        kind: Callable[[BinaryIO], RowFile] = lambda file: JsonRows(path, file, model, schema)  # noqa: E731
    elif path.suffix == ".csv":
        kind = lambda file: CsvRows(path, file, model, schema, ignored)  # noqa: E731
    else:
        raise BadFile(f"{path}: expected a file that ends in .csv or .jsonl")
    if not path.is_file():
        raise BadFile(f"{path}: not a regular file; it is read twice, to check every row before the first is sent")
    try:
        return kind(path.open("rb"))
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror}") from None
