"""Checkpoint files: written atomically, with a checksum inside that `load` verifies."""

import hashlib
import io
import logging
import pickle
import struct
from pathlib import Path
from typing import Any

import torch

from runner.store.files import CHECKPOINT, write_atomic

log = logging.getLogger(__name__)

FILE = CHECKPOINT
_END = b"PK\x05\x06"  # a zip file's last record; its last two bytes are the length of the comment that follows
_COMMENT = b"sha256:"
_LENGTH = len(_COMMENT) + 64  # bytes of the comment: the digest follows in hexadecimal


class Damaged(Exception):
    """Error for a checkpoint with a wrong checksum or forbidden contents."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers, strings, lists and mappings to a file that `torch.load` can read too.

    The checksum is the comment of the zip file that `torch.save` makes.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    if content[-22:-18] != _END or content[-2:] != b"\0\0":
        raise AssertionError("torch.save no longer ends in a zip record without a comment")
    write_atomic(path, content[:-2] + struct.pack("<H", _LENGTH) + _comment(content))


def _comment(content: bytes) -> bytes:
    return _COMMENT + hashlib.sha256(content).hexdigest().encode()


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Load a saved state after verifying its checksum; no code in the file is run.

    Raises `Damaged`, naming the file, where the checksum differs or it holds more than tensors and plain values.
    """
    content = path.read_bytes()
    zipped, comment = content[: -_LENGTH - 2] + b"\0\0", content[-_LENGTH - 2 :]
    if comment != struct.pack("<H", _LENGTH) + _comment(zipped):
        raise Damaged(f"{path} is damaged: its checksum does not fit")
    try:
        return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise Damaged(f"{path}: holds more than tensors; nothing of it was run") from error
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise Damaged(f"{path} is damaged: it cannot be read") from error


def load_if_whole(path: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """Load a saved state, see `load`; None where there is no file, or, with a warning, where it is damaged."""
    if not path.exists():
        return None
    try:
        return load(path, device)
    except Damaged as error:
        log.warning("%s; the run starts anew", error)
        return None
