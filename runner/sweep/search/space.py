"""The space that a search walks in, as Hydra's syntax says it: intervals, ranges, choices."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.trial import Trial

from runner.core.errors import ConfigError
from runner.core.schema import STACKS
from runner.sweep.compose.overrides import override_key, override_values, parse_value

DIGITS = 6  # of a number that is drawn: as many as a person reads
LARGEST = 2**53  # whole number that a sampler can tell from its neighbours
INNER = 0.382  # where between its bounds a key is tried before a search starts
WHOLE_CHECKED = 64  # combinations of choices that are checked before a search starts

Params = dict[str, Any]  # key -> what Optuna draws


@dataclass(frozen=True)
class Dimension:
    """A key with a space."""

    key: str
    element: str  # the key as typed, with its + or package
    typed: str
    distribution: BaseDistribution

    @property
    def numeric(self) -> bool:
        """Whether its values have an order and distances."""
        return not isinstance(self.distribution, CategoricalDistribution)

    def text(self, drawn: Any) -> str:
        """A drawn value as it is typed."""
        one = self.distribution
        if isinstance(one, FloatDistribution):
            digits = DIGITS if one.step is None else 12  # a step of a tenth is none in binary numbers
            return repr(min(max(float(f"{drawn:.{digits}g}"), one.low), one.high))
        return str(drawn)

    def draw(self, trial: Trial) -> Any:
        """From Optuna."""
        one = self.distribution
        if isinstance(one, CategoricalDistribution):
            return trial.suggest_categorical(self.key, one.choices)
        suggest = trial.suggest_int if isinstance(one, IntDistribution) else trial.suggest_float
        return suggest(self.key, one.low, one.high, step=one.step, log=one.log)

    def every(self) -> Sequence[Any] | None:
        """All values; None for an interval."""
        one = self.distribution
        if isinstance(one, CategoricalDistribution):
            return one.choices
        if isinstance(one, IntDistribution):
            return range(one.low, one.high + 1, one.step)
        if one.step is None:
            return None
        return [float(f"{one.low + i * one.step:.12g}") for i in range(round((one.high - one.low) / one.step) + 1)]

    def ends(self) -> tuple[Any, Any, Any]:
        """The lowest value, one in the middle, the highest."""
        if every := self.every():
            return every[0], every[len(every) // 2], every[-1]
        one = self.distribution
        # Not the very middle: that of 16 and 32 is whole, though most between are not.
        middle = one.low * (one.high / one.low) ** INNER if one.log else one.low + INNER * (one.high - one.low)
        return one.low, middle, one.high

    def locate(self, found: Any) -> Any:
        """What would have to be drawn for this value of a config; None where the space has no such value."""
        one = self.distribution
        if isinstance(one, CategoricalDistribution):
            same = (text for text in one.choices if found in (text, parse_value(self.key, text)))
            return next(same, None)
        if isinstance(found, bool) or not isinstance(found, int | float) or not one.low <= found <= one.high:
            return None
        if (every := self.every()) is not None and found not in every:
            return None
        return int(found) if isinstance(one, IntDistribution) else float(found)


@dataclass(frozen=True)
class Space:
    """Every key of a search: those with a space, and those with one value."""

    dimensions: list[Dimension]
    fixed: dict[str, str]  # key as typed -> text
    groups: frozenset[str]  # keys that choose files

    def draw(self, trial: Trial) -> Params:
        """A point, from Optuna."""
        return {one.key: one.draw(trial) for one in self.dimensions}

    def words(self, params: Params) -> list[str]:
        """A point, as it is typed."""
        drawn = {one.element: one.text(params[one.key]) for one in self.dimensions}
        return [f"{key}={text}" for key, text in (drawn | self.fixed).items()]

    def swept(self, params: Params) -> dict[str, Any]:
        """A point as values."""
        return {one.key: parse_value(one.key, one.text(params[one.key])) for one in self.dimensions}

    def described(self) -> dict[str, str]:
        """What makes it this space, for the study."""
        return {one.key: distribution_to_json(one.distribution) for one in self.dimensions}

    def size(self) -> int | None:
        """Its points; None where there is an interval."""
        every = [one.every() for one in self.dimensions]
        return None if None in every else math.prod(map(len, every))

    def points(self) -> Iterator[Params]:
        """All of them, of a space without intervals."""
        keys = [one.key for one in self.dimensions]
        return (dict(zip(keys, point)) for point in itertools.product(*(one.every() for one in self.dimensions)))

    def corners(self) -> list[Params]:
        """Points that show what cannot work: every combination of choices (where there are many, every choice beside
        the first ones of the others), each with all numbers at their lowest, in the middle and at their highest."""
        choices = {one.key: list(one.distribution.choices) for one in self.dimensions if not one.numeric}
        if math.prod(map(len, choices.values())) <= WHOLE_CHECKED:
            rows = [dict(zip(choices, row)) for row in itertools.product(*choices.values())]
        else:
            first = {key: texts[0] for key, texts in choices.items()}
            rows = [first, *(first | {key: text} for key, texts in choices.items() for text in texts[1:])]
        numbers = {one.key: one.ends() for one in self.dimensions if one.numeric}
        places = range(3 if numbers else 1)
        return [row | {key: ends[place] for key, ends in numbers.items()} for row in rows for place in places]

    def locate(self, config: Mapping[str, Any], choices: Mapping[str, Any]) -> Params | None:
        """The point where a run with this config and these options of groups lies, if it can lie in the space."""
        params = {}
        for one in self.dimensions:
            if one.key in STACKS:
                found: Any = [str(item) for item in choices.get(one.key, ())]
            elif one.key in self.groups:
                found = choices.get(one.key)
            else:
                found = _at(config, one.key)
            params[one.key] = one.locate(found)
        return None if None in params.values() else params


def make_space(overrides: list[Override], loader: ConfigLoader) -> Space:
    """The space of what was typed. Raises `ConfigError` for bad bounds, and where nothing is to be searched."""
    dimensions, fixed = [], {}
    for override in overrides:
        distribution = _distribution(override)
        element, key = override.get_key_element(), override_key(override)
        if distribution is None:
            fixed[element] = override_values(override)[0]
            continue
        typed = override.input_line.partition("=")[2]
        dimensions.append(Dimension(key, element, typed, distribution))
        if key == "seed":
            raise ConfigError(
                f"{override.input_line}: a search has one seed; repeat what it finds with -m seed=0,1,2 and "
                "without hydra/sweeper=search"
            )
    if not dimensions:
        raise ConfigError(
            "hydra/sweeper=search: no key has a space; type one, such as "
            "'optimizer.lr=tag(log,interval(1e-4,1e-1))', 'epochs=range(2,10)' or optimizer=sgd,adam"
        )
    groups = frozenset(one.key for one in dimensions if loader.get_group_options(one.key))
    return Space(dimensions, fixed, groups)


def _distribution(override: Override) -> BaseDistribution | None:
    """None for one value."""
    line = override.input_line
    if not override.is_sweep_override():
        return None
    sweep = override.value()
    if unknown := sorted(sweep.tags - {"log", "int"}):
        raise ConfigError(f"{line}: tag '{unknown[0]}' is not known; a space may be tagged log and int")
    log = "log" in sweep.tags
    if isinstance(sweep, RangeSweep) and sweep.step == 0:
        raise ConfigError(f"{line}: a range needs a step that is not 0")
    if isinstance(sweep, IntervalSweep):
        return _interval(line, sweep, log)
    if override.is_choice_sweep() and sweep.tags:
        raise ConfigError(f"{line}: choices have no order, so no tag; use interval(A,B) or range(A,B)")
    texts = list(dict.fromkeys(override_values(override)))
    if len(texts) == 1:
        return None
    if isinstance(sweep, RangeSweep):
        return _range(line, sweep, log)
    return CategoricalDistribution(texts)


def _interval(line: str, sweep: IntervalSweep, log: bool) -> BaseDistribution:
    low, high = sweep.start, sweep.end
    whole = (isinstance(low, int) and isinstance(high, int)) or "int" in sweep.tags
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ConfigError(f"{line}: the bounds must be finite numbers")
    if low == high:
        raise ConfigError(
            f"{line}: both bounds are {low:g}; type {line.partition('=')[0]}={low:g}, or raise the upper one"
        )
    if low > high:
        raise ConfigError(f"{line}: the lower bound comes first and is smaller, as in interval({high:g},{low:g})")
    if log and low <= 0:
        raise ConfigError(f"{line}: a logarithm needs bounds above 0; raise the lower one, or leave tag(log,...) out")
    if not whole:
        return FloatDistribution(low, high, log=log)
    if int(low) != low or int(high) != high or max(abs(low), abs(high)) > LARGEST:
        raise ConfigError(f"{line}: whole numbers need whole bounds, at most {LARGEST} from 0")
    return IntDistribution(int(low), int(high), log=log)


def _range(line: str, sweep: RangeSweep, log: bool) -> BaseDistribution:
    step = sweep.step if sweep.step > 0 else -sweep.step
    numbers = [Decimal(repr(number)) for number in sweep.range()]
    low, high = min(numbers), max(numbers)
    whole = all(isinstance(number, int) for number in (sweep.start, sweep.stop, sweep.step))
    if log and (not whole or step != 1 or low <= 0):
        raise ConfigError(f"{line}: tag(log,...) needs whole numbers above 0 and a step of 1; or use interval(A,B)")
    if whole and max(abs(low), abs(high)) > LARGEST:
        raise ConfigError(f"{line}: numbers are at most {LARGEST} from 0")
    if whole:
        return IntDistribution(int(low), int(high), step=1 if log else int(step), log=log)
    exact = Decimal(repr(float(step)))
    first = Decimal(repr(float(sweep.start)))
    last = first + (len(numbers) - 1) * (exact if sweep.step > 0 else -exact)
    return FloatDistribution(float(min(first, last)), float(max(first, last)), step=float(exact))


def _at(config: Mapping[str, Any], key: str) -> Any:
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return node
