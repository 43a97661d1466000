"""Which numbers the fields of a configuration may hold: stated beside each field's type, checked in one place."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True, slots=True)
class Bounds:
    """An interval of finite numbers, for `Annotated`.

    Args:
        low: the least number.
        high: the greatest.
        ends: "[" or "(" and "]" or ")": whether `low` and `high` belong to it.
        hint: what else to do, for the message.
    """

    low: float
    high: float = math.inf
    ends: str = "[]"
    hint: str = ""

    def hold(self, value: float) -> bool:
        """Returns whether a number is finite and lies inside."""
        above = value > self.low if self.ends[0] == "(" else value >= self.low
        below = value < self.high if self.ends[1] == ")" else value <= self.high
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        if math.isfinite(self.high):
            return f"must lie in {self.ends[0]}{self.low:g}, {self.high:g}{self.ends[1]}"
        if self.low == 0:
            return "must be positive" if self.ends[0] == "(" else "must not be negative"
        return f"must be at least {self.low:g}"


Count = Annotated[int, Bounds(1)]
Whole = Annotated[int, Bounds(0)]
Positive = Annotated[float, Bounds(0, ends="(]")]
NotNegative = Annotated[float, Bounds(0)]
Part = Annotated[float, Bounds(0, 1)]
"""A fraction that may be nothing and all."""
BelowOne = Annotated[float, Bounds(0, 1, "[)")]
AboveZero = Annotated[float, Bounds(0, 1, "(]")]
Inside = Annotated[float, Bounds(0, 1, "()")]


def check_bounds(config: Any, path: str) -> None:
    """Raises a ValueError that names the first field of a dataclass with a number out of bounds; for `__post_init__`.

    Args:
        config: the dataclass; those inside check themselves.
        path: its dotted key.
    """
    for field in dataclasses.fields(config):
        check_value(type(config), field.name, getattr(config, field.name), path)


def check_value(kind: type, name: str, value: Any, path: str) -> None:
    """Raises a ValueError if a field may not hold a value.

    Args:
        kind: the dataclass.
        name: of its field.
        value: for the field.
        path: dotted key of the dataclass.
    """
    hint = _hints(kind)[name]
    for number, bounds in bounded(value, hint):
        if not bounds.hold(number):
            default = {f.name: f.default for f in dataclasses.fields(kind)}[name]
            usual = [] if default in (dataclasses.MISSING, None) else [f"the default is {default}"]
            advice = "; ".join([*([bounds.hint] if bounds.hint else []), *usual])
            none = ", or None" if type(None) in get_args(hint) else ""
            finite = "" if math.isfinite(number) else " and finite"
            raise ValueError(f"{path}.{name}={value} {bounds}{finite}{none}" + (f": {advice}" if advice else ""))


def bounded(value: Any, hint: Any) -> Iterator[tuple[float, Bounds]]:
    """Gives the numbers of a value, each with the bounds that its type states."""
    kind, inside = get_origin(hint), get_args(hint)
    if kind is Annotated:
        yield from ((value, bounds) for bounds in inside[1:] if isinstance(bounds, Bounds))
    elif kind in (Union, UnionType) and value is not None:
        for part in inside:
            yield from bounded(value, part)
    elif kind is tuple:
        for element in value:
            yield from bounded(element, inside[0])
    elif kind is dict:
        for element in value.values():
            yield from bounded(element, inside[1])


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)
