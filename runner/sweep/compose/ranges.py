"""Numbers of Hydra's `range(START,STOP,STEP)` in decimal arithmetic.

Hydra counts in binary fractions: its `range(0,0.9,0.3)` has a fourth value, 0.8999999999999999.
"""

import copy
import math
from decimal import Decimal
from typing import Any

from hydra.core.override_parser.overrides_parser import create_functions
from hydra.core.override_parser.types import RangeSweep

from runner.core.errors import ConfigError

MOST = 1_000_000  # values of a range


def range_values(sweep: RangeSweep, typed: str) -> list[int] | list[float]:
    """Return the numbers of a range, `STOP` excluded; integers if its three numbers are.

    typed: the override, for messages. Raises `ConfigError` for a step of 0, for bounds that are not finite, and for
    more than `MOST` values.
    """
    numbers = sweep.start, sweep.stop, sweep.step
    if not all(map(math.isfinite, numbers)):
        raise ConfigError(f"{typed}: a range needs finite numbers")
    if sweep.step == 0:
        raise ConfigError(f"{typed}: a range needs a step that is not 0")
    start, stop, step = (Decimal(repr(number)) for number in numbers)
    count = max(0, math.ceil((stop - start) / step))
    if count > MOST:
        raise ConfigError(f"{typed}: has {count:,} values; at most {MOST:,} are possible")
    convert = int if all(isinstance(number, int) for number in numbers) else float
    return [convert(start + i * step) for i in range(count)]


def sort_range(sweep: RangeSweep, reverse: bool) -> RangeSweep:
    """Return the range with the same numbers in ascending order, or in descending order."""
    values = range_values(sweep, f"sort(range({sweep.start},{sweep.stop},{sweep.step}))")
    if not values or (sweep.step < 0) == reverse:
        return sweep
    turned = copy.copy(sweep)
    step = -Decimal(repr(sweep.step))
    convert = type(values[0])
    turned.start, turned.step = values[-1], type(sweep.step)(step)
    turned.stop = convert(Decimal(repr(values[-1])) + len(values) * step)
    return turned


def parser_functions() -> Any:
    """Return the functions of Hydra's override grammar, with a `sort` that keeps the numbers of a range."""
    functions = create_functions()
    sort_others = functions.functions["sort"]

    def sort(*args: Any, **options: Any) -> Any:
        target = options.get("sweep") or (args[0] if len(args) == 1 else None)
        if isinstance(target, RangeSweep):
            return sort_range(target, options.get("reverse", False))
        return sort_others(*args, **options)

    functions.functions["sort"] = sort
    return functions
