"""Search spaces as text: `optim.lr=loguniform(1e-4, 1e-2)`."""

import ast
import re
from typing import Any

from ray import tune

from raysys.config import RunConfig, keys, unknown_key
from raysys.presets import absolute_init

_ENTRY = re.compile(r"^\s*(?P<key>[\w.]+)\s*=\s*(?P<kind>\w+)\((?P<values>.*)\)\s*$")
_KINDS = {
    "uniform": (tune.uniform, 2),
    "loguniform": (tune.loguniform, 2),
    "randint": (tune.randint, 2),
    "choice": (lambda *values: tune.choice(list(values)), None),
    "grid": (lambda *values: tune.grid_search(list(values)), None),
}


def parse_space(entries: tuple[str, ...], config: RunConfig) -> dict[str, Any]:
    """Returns dotted key -> Ray Tune domain.

    Args:
        entries: `key=uniform(a, b)`, `key=loguniform(a, b)`, `key=randint(a, b)`, `key=choice(...)`, `key=grid(...)`.
        config: gives the known keys.

    Raises:
        ValueError: an entry of another form, an unknown key (with the nearest known one), or a range the wrong way
            round.
    """
    known = keys(config)
    space = {}
    for entry in entries:
        match = _ENTRY.match(entry)
        if not match or match["kind"] not in _KINDS:
            raise ValueError(
                f"search.space: cannot read {entry!r}; write key=kind(values) with one of {', '.join(_KINDS)}, "
                "e.g. 'loss.temperature=loguniform(0.05, 0.5)'"
            )
        if match["key"] not in known:
            raise ValueError("search.space: " + unknown_key(match["key"], known))
        make, arity = _KINDS[match["kind"]]
        values = _literals(match["values"], entry)
        if arity and (len(values) != arity or not values[0] < values[1]):
            raise ValueError(f"search.space: {entry!r} needs a lower and a higher bound")
        if match["key"] == "finetune.init":
            values = tuple(map(absolute_init, values))
        space[match["key"]] = make(*values)
    return space


def _literals(text: str, entry: str) -> tuple:
    try:
        return ast.literal_eval(f"({text},)")
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"search.space: cannot read the values of {entry!r}; texts need quotes") from error
