"""torch's shared libraries, loaded by another core while Hydra composes. Imports no torch."""

import atexit
import contextlib
import ctypes
import importlib
import importlib.util
import os
import sys
import threading
from pathlib import Path

import pydantic_core

LIBRARIES = "libtorch_global_deps.so", "libtorch_python.so"  # the second brings all others with it
# The system loads one library at a time, and who asks for another one waits: what Hydra needs is there before.
FIRST = (
    *("array", "binascii", "fcntl", "math", "select", "zlib", "yaml._yaml"),
    *("_bisect", "_blake2", "_bz2", "_contextvars", "_csv", "_datetime", "_decimal", "_hashlib", "_heapq", "_json"),
    *("_lzma", "_opcode", "_pickle", "_posixsubprocess", "_queue", "_random", "_sha512", "_socket", "_struct"),
    *("_typing", "_uuid", "_zoneinfo"),
)
_thread: threading.Thread | None = None


def load() -> None:
    """Begins to load them, where they are (on Linux): `import torch` then takes three quarters of its time. What cannot
    be loaded is left to torch, which says why."""
    global _thread
    _thread = None
    spec = None if "torch" in sys.modules else importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return
    paths = [Path(spec.submodule_search_locations[0], "lib", name) for name in LIBRARIES]
    if all(path.exists() for path in paths):
        for name in FIRST:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        pydantic_core.SchemaValidator({"type": "int"})  # the first one looks something up in a library
        _thread = threading.Thread(target=_load, args=[paths], daemon=True)
        _thread.start()
        atexit.register(wait)  # to end meanwhile would crash, unless by `os._exit`


def fresh() -> bool:
    """Whether the command that is under way is the first that needs torch in this process."""
    return _thread is not None


def wait() -> None:
    """Until they are loaded, if that was begun."""
    if _thread is not None:
        _thread.join()


def _load(paths: list[Path]) -> None:
    # Called as a function of the C library's, it lets Python go on; `ctypes.CDLL(path)` does not.
    load = ctypes.CDLL(None).dlopen
    load.argtypes, load.restype = [ctypes.c_char_p, ctypes.c_int], ctypes.c_void_p
    for path, mode in zip(paths, (os.RTLD_NOW | os.RTLD_GLOBAL, os.RTLD_NOW)):
        if not load(os.fsencode(path), mode):
            return
