"""results.parquet, for those who read many sweeps at once."""

import importlib.util
import io
from pathlib import Path

from runner.store.files import write_atomic
from runner.store.owned import PARQUET_MARK, is_own_parquet


def write_parquet(table: Path) -> Path | None:
    """Writes `table` (results.csv) once more beside itself, with a type a column; None without pyarrow.

    Numbers and true/false are what they are, an empty cell is null, all else is text as it was typed.
    """
    path = table.with_suffix(".parquet")
    if importlib.util.find_spec("pyarrow") is None:
        if path.is_file() and is_own_parquet(path):  # of an earlier report: it would tell another story than the csv
            path.unlink()
        return None
    from pyarrow import csv, parquet

    empty = csv.ConvertOptions(null_values=[""], strings_can_be_null=True)
    long = csv.ParseOptions(newlines_in_values=True)
    content = csv.read_csv(io.BytesIO(table.read_bytes()), convert_options=empty, parse_options=long)
    content = content.replace_schema_metadata({PARQUET_MARK: b"1"})
    write_atomic(path, lambda file: parquet.write_table(content, file), durable=False)
    return path
