"""What is asked again and again of the same numbers. Imports no NumPy."""

import functools
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def by_content(most: int) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Keeps the last `most` answers of a function of arrays and plain values, whose equality is that of contents: runs
    of a sweep show the same batch, drawn anew. Answers are shared: nobody may write to them."""

    def kept(function: Callable[..., T]) -> Callable[..., T]:
        known: OrderedDict[Any, T] = OrderedDict()

        @functools.wraps(function)
        def asked(*given: Any, **named: Any) -> T:
            key = tuple(map(_plain, given)), tuple((name, _plain(value)) for name, value in sorted(named.items()))
            if key not in known:
                known[key] = function(*given, **named)
                if len(known) > most:
                    known.popitem(last=False)
            known.move_to_end(key)
            return known[key]

        return asked

    return kept


class Recent(OrderedDict):
    """Mapping of the `most` entries that were used last; the others are forgotten."""

    def __init__(self, most: int):
        super().__init__()
        self.most = most

    def __getitem__(self, key: Any) -> Any:
        value = super().__getitem__(key)
        self.move_to_end(key)
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        if len(self) > self.most:
            self.popitem(last=False)


def _plain(value: Any) -> Any:
    if hasattr(value, "tobytes"):
        return value.tobytes(), value.shape, value.dtype.str
    return pickle.dumps(value)  # all of it: what `repr` shows of a tensor is its corners
