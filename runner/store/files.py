"""Names of result files, and functions that write them atomically."""

import csv
import io
import json
import os
import re
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import yaml

from runner.core.memo import by_content

if TYPE_CHECKING:
    import numpy as np

RESULT = "result.json"  # of a run, in its folder
CHECKPOINT = "checkpoint.pt"  # of a run, in its folder
PLAN = "plan.json"  # of a sweep, in its folder
TABLE = "results.csv"  # of a sweep, in its folder
EVENTS = re.compile(r"events\.out\.tfevents\.\d+\.\d+|end\.\d+\.tfevents")  # ours; other names hold a host
PICTURE_MARK = b"Software\0runner"  # in each of our PNG files


def write_atomic(path: Path, write: Callable[[BinaryIO], None] | bytes | str, durable: bool = True) -> None:
    """Write a file by a temporary file, fsync and rename: a reader sees the old file or the new one.

    write: the content, or a function that writes it to an open binary file. durable: False leaves out the fsync, for
    files that can be made again.
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            if callable(write):
                write(file)
            else:
                file.write(write.encode() if isinstance(write, str) else write)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any, durable: bool = True) -> None:
    """Write a value as indented JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n", durable)


def yaml_text(value: Mapping[str, Any] | Sequence[Any]) -> str:
    """Return plain values as YAML, in their order."""
    return yaml.dump(value, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True)


@by_content(8)
def png(image: "np.ndarray") -> bytes:
    """Return an image uint8 [H, W, 3] as a PNG file (W3C, Portable Network Graphics, sections 5 and 9).

    Each row is stored as its difference to the row above (filter 2) at Deflate's fastest level. For drawings and
    enlarged images the file is as small as Pillow's, which tries all five filters, and takes half the time.
    """
    import numpy as np  # imported here, because only drawing needs it

    height, width, _ = image.shape
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    rows[:, 0] = 2
    rows[0, 1:] = image[0].reshape(-1)
    np.subtract(image[1:], image[:-1], out=rows[1:, 1:].reshape(height - 1, width, 3))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits a channel, RGB
    chunks = (b"IHDR", header), (b"tEXt", PICTURE_MARK), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def csv_text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return rows as CSV, numbers with all their digits."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


class CsvFile:
    """CSV file that grows row by row; it starts with the rows of an earlier process, written anew."""

    def __init__(self, path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]):
        self.columns = columns
        write_atomic(path, ",".join(columns) + "\n" + "".join(map(self._line, rows)), durable=False)
        self._file = path.open("a", buffering=1)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one row; a column without a value stays empty."""
        self._file.write(self._line(row))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _line(self, row: Mapping[str, Any]) -> str:
        return ",".join("" if row.get(name) is None else str(row[name]) for name in self.columns) + "\n"
