"""Texts are read as they are, from files and from columns of rows; what is no text is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from harness.errors import InputError
from harness.scoring.data import load_text
from harness.suite.data_source import DataSource
from tests.support.cells_in_process import make_context


def read(folder: Path, name: str, **source: Any) -> str:
    return load_text(DataSource(path=name, **source), make_context(folder))[0]


@pytest.mark.parametrize(
    "content",
    [
        b"a\nb\n\n",
        b"a\nb",
        b"a\r\nb\r\n",
        b"a\rb\x0c\x0bc",
        "é🦙\u2028\x85\n\n\n".encode(),
        b"\n a",
    ],
    ids=["trailing", "no end", "CRLF", "CR", "unicode", "leading"],
)
def test_a_text_file_is_read_byte_for_byte(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "text.raw").write_bytes(content)
    assert read(tmp_path, "text.raw").encode() == content


@pytest.mark.parametrize("content", [b"", b" \n\r\n"])
def test_an_empty_text_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"text 'text\.txt' is empty"):
        read(tmp_path, "text.txt")


def test_a_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes("naïve".encode("latin-1"))
    with pytest.raises(InputError, match=r"text\.txt is not UTF-8: .* position 2"):
        read(tmp_path, "text.txt")


def test_a_folder_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    with pytest.raises(InputError, match="'texts' is a folder; name a file in it"):
        read(tmp_path, "texts")


ROWS = ["one", "None", "NA", "0.10", "", 'a "b", c', "é🦙"]


def write_rows(folder: Path, suffix: str, column: str, rows: list[Any]) -> None:
    path = folder / f"rows{suffix}"
    if suffix == ".csv":
        quoted = ['"' + row.replace('"', '""') + '"' for row in rows]
        path.write_text("id," + column + "\n" + "".join(f"1,{row}\n" for row in quoted))
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps({"id": 1, column: row}) + "\n" for row in rows))
    else:
        pyarrow.parquet.write_table(pa.table({"id": [1] * len(rows), column: rows}), path)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_rows_are_joined_by_blank_lines_and_kept_as_they_are(tmp_path: Path, suffix: str) -> None:
    write_rows(tmp_path, suffix, "text", ROWS)
    assert read(tmp_path, f"rows{suffix}") == "\n\n".join(ROWS)
    write_rows(tmp_path, suffix, "page", ROWS)
    assert read(tmp_path, f"rows{suffix}", column="page") == "\n\n".join(ROWS)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_missing_column_is_answered_with_those_there_are(tmp_path: Path, suffix: str) -> None:
    write_rows(tmp_path, suffix, "page", ROWS)
    with pytest.raises(InputError, match=rf"'rows{suffix}' has no column 'text'; it has id, page"):
        read(tmp_path, f"rows{suffix}")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_cell_without_text_is_refused_by_row(tmp_path: Path, suffix: str) -> None:
    write_rows(tmp_path, suffix, "text", ["one", None, "three"])
    with pytest.raises(InputError, match=rf"rows{suffix}, row 2: column 'text' holds None"):
        read(tmp_path, f"rows{suffix}")


def test_a_csv_row_with_one_cell_too_many_is_refused_by_row(tmp_path: Path) -> None:
    """pandas alone would shift every cell of the file by one."""
    (tmp_path / "rows.csv").write_text("id,text\n1,a,b\n2,c,d\n")
    with pytest.raises(InputError, match=r"rows\.csv, row 2: expected 2 columns, found 3"):
        read(tmp_path, "rows.csv")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b'{"text": "x"\n')
    with pytest.raises(InputError, match=rf"(cannot read .*|^){name}"):
        read(tmp_path, name)
