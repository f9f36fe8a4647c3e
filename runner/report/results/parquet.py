"""Writer of results.parquet, the typed copy of results.csv."""

import importlib.util
import io
from pathlib import Path

from runner.store.files import write_atomic
from runner.store.owned import PARQUET_MARK, is_own_parquet


def write_parquet(table: Path) -> Path | None:
    """Convert `table` (results.csv) to Parquet beside it and return the path; None without pyarrow.

    Columns of numbers or booleans get this type, others are strings; an empty cell is null.
    """
    path = table.with_suffix(".parquet")
    if importlib.util.find_spec("pyarrow") is None:
        if path.is_file() and is_own_parquet(path):  # from an earlier report, so it may contradict the CSV file
            path.unlink()
        return None
    from pyarrow import csv, parquet

    convert = csv.ConvertOptions(null_values=[""], strings_can_be_null=True)
    parse = csv.ParseOptions(newlines_in_values=True)
    content = csv.read_csv(io.BytesIO(table.read_bytes()), convert_options=convert, parse_options=parse)
    content = content.replace_schema_metadata({PARQUET_MARK: b"1"})
    write_atomic(path, lambda file: parquet.write_table(content, file), durable=False)
    return path
