"""Files of rows: each row is read exactly as it is meant, or the file is refused with the cause and the line."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.row_file import LONGEST_LINE, BadFile
from pipeline.cli.rows import open_rows

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "Income": {"type": ["number", "null"]},
        "Amount": {"type": "number"},
        "Home": {"enum": ["tenant", "rent", None]},
    },
    "required": ["Income", "Amount", "Home"],
    "additionalProperties": False,
}
GOOD = "Income,Amount,Home\n131,1000,rent\n"


def schema_of(required: bool = True, **feature: Any) -> dict[str, Any]:
    """A model of one feature, ``x``, and another beside it, so that a blank line is no row."""
    properties = {"x": feature.get("x", feature), "n": {"type": "number"}}
    return {"properties": properties, "required": ["x", "n"] if required else ["n"], "$defs": feature.pop("defs", {})}


def read(path: Path, content: str | bytes, schema: dict[str, Any] = SCHEMA, name: str = "rows.csv", **more: Any) -> Any:
    file = path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with open_rows(file, "m", schema, **more) as rows:
        count = rows.check()
        requests = list(rows)
    assert len(requests) == count
    return requests


def features(*arguments: Any, **more: Any) -> list[dict[str, Any]]:
    return [request["features"] for request in read(*arguments, **more)]


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        pytest.param(GOOD + "10,3,000,rent\n", 3, "4 cells, and the header has 3", id="a comma within a number"),
        pytest.param(GOOD + "10,3\n", 3, "2 cells, and the header has 3", id="cut off"),
        pytest.param(GOOD + "10,3", 3, "2 cells", id="cut off at the end of the file"),
        pytest.param(GOOD + "10,300,rent,\n", 3, "4 cells", id="a comma too many"),
        pytest.param(GOOD + "   \n", 3, "1 cells", id="spaces alone"),
        pytest.param("Income,Income,Amount,Home\n1,2,3,rent\n", 1, "names 'Income' twice", id="a doubled name"),
        pytest.param("Income,Amount,Home,id\n1,2,rent,7\n", 1, "has no feature 'id'", id="a strange column"),
        pytest.param("income,Amount,Home\n1,2,rent\n", 1, "did you mean 'Income'", id="another case"),
        pytest.param("Income, Amount,Home\n1,2,rent\n", 1, "did you mean 'Amount'", id="a space in the header"),
        pytest.param("Income,Amuont,Home\n1,2,rent\n", 1, "did you mean 'Amount'", id="a misspelt name"),
        pytest.param(",Income,Amount,Home\n0,1,2,rent\n", 1, "column 1 of the header has no name", id="an index"),
        pytest.param("Income,Home\n1,rent\n", 1, "lacks 'Amount'", id="a column is missing"),
        pytest.param("Income;Amount;Home\n1;2;rent\n", 1, "separated by ';'", id="semicolons"),
        pytest.param("Income\tAmount\tHome\n1\t2\trent\n", 1, r"separated by '\t'", id="tabs"),
        pytest.param("sep=,\n" + GOOD, 1, "remove this line", id="Excel's own first line"),
        pytest.param(GOOD + '1,"1,000",rent\n', 3, "Amount: '1,000' is not a number", id="thousands"),
        pytest.param(GOOD + '1,"1,5",rent\n', 3, "with a decimal point", id="a decimal comma"),
        pytest.param(GOOD + "1,1_000,rent\n", 3, "'1_000' is not a number", id="Python's own separator"),
        pytest.param(GOOD + "1,١٢,rent\n", 3, "is not a number", id="other digits"),
        pytest.param(GOOD + "1,0x10,rent\n", 3, "'0x10' is not a number", id="hexadecimal"),
        pytest.param(GOOD + "1,nan,rent\n", 3, "'nan' is not a number: leave the cell empty", id="nan"),
        pytest.param(GOOD + "1,-inf,rent\n", 3, "'-inf' is not a number", id="infinity"),
        pytest.param(GOOD + "1,1e999,rent\n", 3, "is too large", id="a number beyond a double"),
        pytest.param(GOOD + "1,9007199254740993,rent\n", 3, "more digits than a number keeps", id="beyond 2**53"),
        pytest.param(GOOD + "1,,rent\n", 3, "Amount: the cell is empty", id="no value for what must have one"),
        pytest.param(GOOD + "1,NA,rent\n", 3, "Amount: 'NA' is not a number", id="NA where null is not allowed"),
        pytest.param(GOOD + "1,2 000,rent\n", 3, "'2 000' is not a number", id="a space within a number"),
        pytest.param(GOOD + "1,2,re\0nt\n", 3, "a NUL byte", id="NUL"),
        pytest.param((GOOD + "1,2,l\xf6ss\n").encode("latin-1"), 3, "byte 0xf6 is not UTF-8", id="Latin-1"),
        pytest.param(GOOD.encode("utf-16"), 1, "UTF-16", id="UTF-16"),
        pytest.param(GOOD.encode("utf-16-le"), 1, "NUL", id="UTF-16 without a mark"),
        pytest.param(GOOD + '1,2,"rent\n3,4,tenant\n', 3, "is opened here and not closed", id="a quote left open"),
        pytest.param(GOOD + '1,2,"re"nt\n', 3, "text after a closing quote", id="text after a quote"),
        pytest.param(GOOD + '1,2,re"nt\n', 3, "in a cell that does not begin with one", id="a stray quote"),
        pytest.param(GOOD + '1,2, "rent"\n', 3, "in a cell that does not begin with one", id="a space, then a quote"),
        pytest.param('"In"come,Amount,Home\n', 1, "text after a closing quote", id="a stray quote in the header"),
    ],
)
def test_a_csv_file_that_does_not_fit_is_refused_by_its_line(
    tmp_path: Path, content: str | bytes, line: int, said: str
) -> None:
    with pytest.raises(BadFile) as refused:
        read(tmp_path, content)
    assert f"rows.csv, line {line}: " in str(refused.value)
    assert said in str(refused.value)


def test_lines_are_counted_as_an_editor_does_through_quoted_line_ends(tmp_path: Path) -> None:
    text = schema_of(type="string")
    with pytest.raises(BadFile, match="line 5: 3 cells"):
        read(tmp_path, 'x,n\n"one\ntwo",1\n\nthree,2,3\n', text)
    with pytest.raises(BadFile, match="line 2: n: 'two'"):
        read(tmp_path, 'x,n\n"one\n\n\nmore",two\n', text)
    with pytest.raises(BadFile, match="line 3: 3 cells"):
        read(tmp_path, "x,n\rone,1\rthree,2,3\r", text)


def test_the_first_bad_rows_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    with pytest.raises(BadFile) as refused:
        read(tmp_path, GOOD + "1,2\n" * 7 + "1,2,rent\n")
    said = str(refused.value)
    assert [f"line {line}:" in said for line in range(2, 11)] == [False, *[True] * 5, False, False, False]
    assert "and 2 more rows" in said
    assert "no row was sent" in said


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(GOOD, id="plain"),
        pytest.param("\ufeff" + GOOD, id="BOM"),
        pytest.param(GOOD.replace("\n", "\r\n"), id="CRLF"),
        pytest.param(GOOD.replace("\n", "\r"), id="CR"),
        pytest.param(GOOD.rstrip(), id="no line end at the end"),
        pytest.param(GOOD + "\n\n", id="blank lines at the end"),
        pytest.param('"Income","Amount","Home"\n"131","1000","rent"\n', id="quoted"),
        pytest.param('\ufeff"Income",Amount,Home\n131,1000,rent\n', id="BOM before a quote"),
        pytest.param("Income,Amount,Home\n 131 ,1e3,rent\n", id="spaces and an exponent"),
        pytest.param("Home,Income,Amount\nrent,+131.0,1000.\n", id="another order, other ways to write a number"),
    ],
)
def test_one_meaning_however_it_is_written(tmp_path: Path, content: str) -> None:
    assert features(tmp_path, content) == [{"Income": 131, "Amount": 1000, "Home": "rent"}]


def test_gaps_are_null_where_null_is_allowed(tmp_path: Path) -> None:
    rows = features(tmp_path, "Income,Amount,Home\n,1,\nNA,2,NA\n")
    assert rows == [{"Income": None, "Amount": 1, "Home": None}, {"Income": None, "Amount": 2, "Home": None}]


NUMBER, TEXT = {"type": "number"}, {"type": "string"}


@pytest.mark.parametrize(
    ("feature", "required", "cell", "value"),
    [
        (NUMBER, True, "0.1", 0.1),
        (NUMBER, True, "-0", 0),
        (NUMBER, True, "9007199254740992", 2**53),
        ({"type": "integer"}, True, "3", 3),
        ({"type": "integer"}, True, "3.0", 3),
        ({"type": "integer"}, True, "1e3", 1000),
        ({"type": "boolean"}, True, "true", True),
        ({"type": "boolean"}, True, "FALSE", False),
        ({"type": ["boolean", "null"]}, True, "", None),
        (TEXT, True, "NA", "NA"),
        (TEXT, True, " 7 ", " 7 "),
        (TEXT, True, "", ""),
        (TEXT, True, "nan", "nan"),
        (TEXT, False, "", ...),
        (NUMBER, False, "", ...),
        ({"type": ["string", "null"]}, True, "", None),
        ({"type": ["string", "null"]}, True, "NA", "NA"),
        ({"enum": ["NA", "DE", None]}, True, "NA", "NA"),
        ({"enum": ["DE", None]}, True, "NA", None),
        ({"enum": ["", "DE", None]}, True, "", ""),
        ({"enum": [1, 2]}, True, "2.0", 2),
        ({"enum": ["DE", "FR"]}, True, "XX", "XX"),
        ({"anyOf": [{"type": "number"}, {"type": "null"}]}, True, "", None),
        ({"anyOf": [{"type": "number"}, {"type": "null"}]}, True, "5", 5),
        ({"anyOf": [{"enum": ["a"]}, {"type": "null"}]}, True, "NA", None),
        ({"$ref": "#/$defs/Home"}, True, "rent", "rent"),
        ({"allOf": [{"$ref": "#/$defs/Home"}]}, True, "rent", "rent"),
        ({"const": "DE"}, True, "DE", "DE"),
        ({"type": ["number", "boolean"]}, True, "True", True),
        ({"type": ["number", "boolean"]}, True, "1", 1),
    ],
)
def test_a_cell_becomes_what_the_schema_says(
    tmp_path: Path, feature: dict[str, Any], required: bool, cell: str, value: Any
) -> None:
    schema = schema_of(required, x=feature, defs={"Home": {"enum": ["tenant", "rent"]}})
    (row,) = features(tmp_path, f"x,n\n{cell},1\n", schema)
    assert row == ({"n": 1} if value is ... else {"x": value, "n": 1})
    assert value is ... or type(row["x"]) is type(value)


@pytest.mark.parametrize(
    ("feature", "cell", "said"),
    [
        ({"type": "integer"}, "3.5", "is not an integer"),
        ({"type": "integer"}, "1e20", "is not an integer that is exact"),
        ({"type": "boolean"}, "1", "neither true nor false"),
        ({"type": "boolean"}, "", "is empty"),
        ({"enum": ["a", "b"]}, "", "is empty"),
        ({"type": ["number", "string"]}, "1", "write the rows as JSONL"),
        ({"type": "array"}, "[1]", "write the rows as JSONL"),
        ({}, "1", "may be anything"),
        ({"enum": [1, "1"]}, "1", "text and others"),
        ({"anyOf": [{"type": "number"}, {}]}, "1", "may be anything"),
        ({"$ref": "http://elsewhere/x"}, "1", "may be anything"),
        ({"$ref": "#/properties/x"}, "1", "may be anything"),
    ],
)
def test_a_cell_that_can_be_read_in_two_ways_is_refused(
    tmp_path: Path, feature: dict[str, Any], cell: str, said: str
) -> None:
    with pytest.raises(BadFile, match=said):
        read(tmp_path, f"x,n\n{cell},1\n", schema_of(x=feature))


def test_a_file_of_one_column_says_where_its_gaps_are(tmp_path: Path) -> None:
    schema = {"properties": {"x": {"type": ["number", "null"]}}, "required": ["x"]}
    assert features(tmp_path, 'x\n1\n""\n2\n\n', schema) == [{"x": 1}, {"x": None}, {"x": 2}]
    with pytest.raises(BadFile, match="line 3: blank"):
        read(tmp_path, "x\n1\n\n2\n", schema)


def test_columns_that_are_no_features_are_left_out_when_they_are_named(tmp_path: Path) -> None:
    content = "id,Income,Amount,Home\n7,1,2,rent\n"
    assert features(tmp_path, content, ignored=["id"]) == [{"Income": 1, "Amount": 2, "Home": "rent"}]
    with pytest.raises(BadFile, match="has no such column"):
        read(tmp_path, content, ignored=["id", "name"])
    with pytest.raises(BadFile, match="that is a feature"):
        read(tmp_path, content, ignored=["id", "Income"])
    with pytest.raises(BadFile, match="--ignore is for the columns"):
        read(tmp_path, "{}", name="rows.jsonl", ignored=["id"])


def test_a_file_without_a_header_is_refused_and_one_without_rows_has_none(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="is empty"):
        read(tmp_path, "")
    assert read(tmp_path, "Income,Amount,Home\n") == []
    assert read(tmp_path, "", name="rows.jsonl") == []


def test_only_regular_files_of_a_known_kind_are_read(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"\.csv or \.jsonl"):
        read(tmp_path, "x", name="rows.txt")
    (tmp_path / "link.csv").symlink_to("/dev/null")
    with pytest.raises(BadFile, match="not a regular file"):
        open_rows(tmp_path / "link.csv", "m", SCHEMA)


def test_a_file_without_line_ends_is_not_read_into_memory(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="longer than"):
        read(tmp_path, GOOD + "1" * (LONGEST_LINE + 1))


def test_a_file_that_changes_after_it_was_checked_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(GOOD)
    with open_rows(file, "m", SCHEMA) as rows:
        assert rows.check() == 1
        file.write_text(GOOD + "1,2\n")
        with pytest.raises(BadFile, match="was changed"):
            list(rows)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{not json", "not JSON"),
        ("[1, 2]", "expected an object"),
        ('{"x": 1} {"x": 2}', "Extra data"),
        ('{"x": 1, "x": 2}', "'x' comes twice"),
        ('{"features": {"x": 1, "x": 2}}', "'x' comes twice"),
        ('{"x": NaN}', "NaN is not JSON"),
        ('{"x": -Infinity}', "-Infinity is not JSON"),
        ('{"x": 1e999}', "too large"),
        ('{"x": 1' + "0" * 5000 + "}", "too many digits"),
        ('{"x": "\\ud800"}', "surrogate"),
        ("[" * 100_000, "nested too deeply"),
        ('{"features": {"x": 1}, "priorty": "high"}', "/priorty"),
        ('{"features": {"x": 1}, "priority": "urgent"}', "/priority"),
        ('{"features": {"x": 1}, "timeout_s": "60"}', "/timeout_s"),
        ('{"features": {"x": 1}, "model": "another"}', "for the model 'another'"),
        ('{"features": 7}', "/features"),
        ('{"features": {"x": 1}, "idempotency_key": "a b"}', "/idempotency_key"),
        ('{"x": "\0"}', "NUL"),
    ],
)
def test_a_jsonl_line_that_does_not_fit_is_refused_by_its_line(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(BadFile) as refused:
        read(tmp_path, '{"x": 0}\n\n' + line + "\n", name="rows.jsonl")
    assert "rows.jsonl, line 3: " in str(refused.value)
    assert said in str(refused.value)


def test_bytes_that_are_no_utf_8_are_refused_in_jsonl_too(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="line 2: byte 0xf6"):
        read(tmp_path, b'{"x": 1}\n{"x": "l\xf6ss"}\n', name="rows.jsonl")


def test_a_jsonl_row_in_the_apis_own_shape_keeps_all_its_fields(tmp_path: Path) -> None:
    more = '"priority": "high", "timeout_s": 60, "idempotency_key": "k-1", "no_cache": true, "allow_degraded": false'
    (request,) = read(tmp_path, f'\ufeff{{"features": {{"x": 1}}, {more}, "model": "m"}}\r\n', name="rows.jsonl")
    assert request == {
        "model": "m", "features": {"x": 1}, "priority": "high", "timeout_s": 60, "idempotency_key": "k-1",
        "no_cache": True, "allow_degraded": False,
    }  # fmt: skip


def test_a_model_may_have_a_feature_called_features(tmp_path: Path) -> None:
    schema = {"properties": {"features": {"type": "object"}}}
    assert features(tmp_path, '{"features": {"x": 1}}\n', schema, name="rows.jsonl") == [{"features": {"x": 1}}]


def test_lines_of_json_are_parted_by_line_feeds_alone(tmp_path: Path) -> None:
    (row,) = features(
        tmp_path, '{"x": "one\u2028two\x85three\x0bfour"}\n'.replace("\x0b", "\\u000b"), name="rows.jsonl"
    )
    assert row == {"x": "one\u2028two\x85three\x0bfour"}
