"""TensorBoard's record format, as its own `RecordWriter` writes it, with the checksum computed in C: a picture takes
microseconds, not 15 ms."""

import struct
from typing import BinaryIO

from crc32c import crc32c


def masked(data: bytes) -> int:
    """The checksum of a record: rotated and shifted, so that it is none of what it stands beside."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class RecordWriter:
    """Appends records to an open binary file."""

    def __init__(self, file: BinaryIO):
        self._file = file

    @property
    def closed(self) -> bool:
        """Whether nothing more can be written."""
        return self._file.closed

    def write(self, data: bytes) -> None:
        """length (uint64), its checksum, data, its checksum; little-endian."""
        length = struct.pack("<Q", len(data))
        parts = length, struct.pack("<I", masked(length)), data, struct.pack("<I", masked(data))
        self._file.write(b"".join(parts))

    def flush(self) -> None:
        """What was written is in the file."""
        self._file.flush()

    def close(self) -> None:
        """Ends the file."""
        self._file.close()
