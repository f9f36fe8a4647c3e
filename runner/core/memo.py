"""Caches in memory: of results by the contents of array arguments, of recent entries. Imports no NumPy."""

import functools
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def by_content(maxsize: int) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Return a decorator that caches a function's last `maxsize` results by the contents of its arguments.

    Arguments are arrays and plain values. Results are shared between calls: do not write to them.
    """
    # by contents, because the runs of a sweep load equal batches into arrays of their own

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        results: OrderedDict[Any, T] = OrderedDict()

        @functools.wraps(function)
        def cached(*args: Any, **kwargs: Any) -> T:
            key = tuple(map(_contents, args)), tuple((name, _contents(value)) for name, value in sorted(kwargs.items()))
            if key not in results:
                results[key] = function(*args, **kwargs)
                if len(results) > maxsize:
                    results.popitem(last=False)
            results.move_to_end(key)
            return results[key]

        return cached

    return decorate


class Recent(OrderedDict):
    """Mapping that keeps the `maxsize` entries used last."""

    def __init__(self, maxsize: int):
        super().__init__()
        self.maxsize = maxsize

    def __getitem__(self, key: Any) -> Any:
        value = super().__getitem__(key)
        self.move_to_end(key)
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        if len(self) > self.maxsize:
            self.popitem(last=False)


def _contents(value: Any) -> Any:
    if hasattr(value, "tobytes"):
        return value.tobytes(), value.shape, value.dtype.str
    return pickle.dumps(value)  # not `repr`, which abbreviates tensors
