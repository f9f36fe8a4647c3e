"""results.parquet, for those who read many sweeps at once."""

import importlib.util
import io
from pathlib import Path

from runner.files import write_atomic


def write_parquet(table: Path) -> Path | None:
    """Writes `table` (results.csv) once more beside itself, with a type a column; None without pyarrow.

    Numbers and true/false are what they are, an empty cell is null, all else is text as it was typed.
    """
    path = table.with_suffix(".parquet")
    if importlib.util.find_spec("pyarrow") is None:
        path.unlink(missing_ok=True)  # of an earlier report: it would tell another story than the csv
        return None
    from pyarrow import csv, parquet

    empty = csv.ConvertOptions(null_values=[""], strings_can_be_null=True)
    long = csv.ParseOptions(newlines_in_values=True)
    content = csv.read_csv(io.BytesIO(table.read_bytes()), convert_options=empty, parse_options=long)
    write_atomic(path, lambda file: parquet.write_table(content, file), durable=False)
    return path
