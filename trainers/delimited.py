"""Opens tables with pandas: text stays text, and a broken line is remembered instead of raised."""

import json
from pathlib import Path

import pandas as pd

SEPARATORS = (",", "\t", ";", "|")
_MALFORMED = "\0malformed "


def read_table(table: Path, records: list | None = None) -> pd.DataFrame:
    """Opens a table by its ending.

    Args:
        table: path. Its ending chooses the reader; an unknown one is taken as delimited text.
        records: list of dicts, if the table's JSON has been read already.

    Returns:
        A data frame with at least one row and column names without surrounding space. Bytes that are not
        UTF-8 are surrogates; `attrs["malformed"]` maps the number of each broken row to what it said.

    Raises:
        ValueError: If the file is empty, broken as a whole, or needs a reader that is not installed.
    """
    kind = table.suffix.lower()
    try:
        if records is not None:
            frame = pd.DataFrame(records, dtype=object)
        elif kind == ".parquet":
            frame = pd.read_parquet(table)
        elif kind == ".feather":
            frame = pd.read_feather(table)
        elif kind in (".xlsx", ".xls", ".ods"):
            frame = pd.read_excel(table, dtype=str, keep_default_na=False)
        elif kind in (".jsonl", ".ndjson"):
            frame = _read_json_lines(table)
        else:
            frame = _read_delimited(table)
    except pd.errors.EmptyDataError:
        frame = pd.DataFrame()
    except ImportError as error:
        raise ValueError(f"Reading {table} needs a further package: {error} Or save it as CSV.") from error
    if frame.empty:
        raise ValueError(f"{table} is empty: it must have a header and at least one row.")
    frame.columns = [str(name).strip() for name in frame.columns]
    return frame


def _read_json_lines(table: Path) -> pd.DataFrame:
    records, malformed = [], {}
    with table.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as lines:
        for line in filter(str.strip, lines):
            try:
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError("no JSON object")
            except (ValueError, RecursionError) as error:
                record, malformed[len(records)] = {}, f"{error}: {line.strip()[:80]!r}"
            records.append(record)
    frame = pd.DataFrame(records, dtype=object)
    frame.attrs["malformed"] = malformed
    return frame


def _read_delimited(table: Path) -> pd.DataFrame:
    with table.open("rb") as file:
        start = file.read(1 << 16)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{table} is UTF-16 text. Save it as UTF-8.")
    header = start.split(b"\n", 1)[0].decode("utf-8-sig", errors="replace")
    separator = "\t" if table.suffix.lower() == ".tsv" else max(SEPARATORS, key=header.count)
    options = {
        "sep": separator,
        "dtype": object,  # strings of Arrow hold no surrogates
        "keep_default_na": False,  # "NA", "null" and "nan" are words a caption may consist of
        "encoding": "utf-8-sig",
        "encoding_errors": "surrogateescape",
        "skipinitialspace": True,
    }
    malformed: dict[int, str] = {}
    try:
        frame = pd.read_csv(table, **options)
    except pd.errors.ParserError as error:
        if "EOF inside string" in str(error):
            raise ValueError(f"{table} has a quotation mark that is never closed: {error}.") from error
        # The slower reader hands over each line that has too many fields; a marked row keeps its number.
        frame = pd.read_csv(table, **options, engine="python", on_bad_lines=lambda f: [_MALFORMED + repr(f)])
        for number, value in enumerate(frame.iloc[:, 0]):
            if isinstance(value, str) and value.startswith(_MALFORMED):
                malformed[number] = f"too many fields: {value.removeprefix(_MALFORMED)}"
    if not isinstance(
        frame.index, pd.RangeIndex
    ):  # pandas takes surplus fields of the first row as row labels
        raise ValueError(
            f"{table}: the first row has more fields than the header. A caption that holds {separator!r} "
            "must be in quotation marks."
        )
    frame.attrs["malformed"] = malformed
    return frame
