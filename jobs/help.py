"""The text of `--help`: what a job does, its own options, and the keys that people change."""

import ast
import dataclasses
import inspect
import re
import textwrap
import types
from itertools import pairwise
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from raysys.config import OFTEN_CHANGED, RunConfig, keys
from raysys.config_finetuning import CHANGED_IN_FINETUNING
from raysys.presets import PRESETS

_WIDTH = 113


def short_help(doc: str, preset: str, config: RunConfig, options: type[Any]) -> str:
    """Returns the help of a job in at most 80 lines.

    Args:
        doc: docstring of the job, "What it does: python -m jobs.JOB EXAMPLE".
        preset: name of the preset, or the text of where the values come from instead.
        config: what the defaults are taken from.
        options: dataclass of the job's own options.
    """
    what, example = re.fullmatch(r"(.*): (python -m .*)", doc.strip().splitlines()[0]).groups()
    job = " ".join(example.split()[:3])
    about = inspect.cleandoc(PRESETS[preset].__doc__).splitlines() if preset in PRESETS else []
    often = OFTEN_CHANGED if config.task == "pretrain" else CHANGED_IN_FINETUNING
    lines = [
        f"{what}.",
        "",
        f"usage: {job} [PRESET] [--KEY VALUE ...] [OPTIONS]",
        f"example: {example}",
        "",
        f"PRESET is {_either(PRESETS)}. Here it is {preset}:" if about else f"Values are those of {preset}.",
        *(f"  {line}".rstrip() for line in about),
        "",
        "options:",
        *(_entry(name.replace("_", "-"), *told) for name, told in _fields(options(), options).items()),
        "",
        f"keys that people change, with the values of {preset}:",
        *(_entry(key.replace("_", "-"), *_of_key(config, key)) for key in often),
        "",
        f"`--help-all` shows all {len(keys(config))} keys.",
    ]
    return "\n".join(lines)


def _entry(name: str, kind: str, value: Any, text: str) -> str:
    """Two lines: name, type and default, then what it means."""
    head = f"  --{name}  ({'on' if value else 'off'})" if kind == "flag" else f"  --{name} {kind}  ({_shown(value)})"
    return f"{head}\n      {textwrap.shorten(text, _WIDTH, placeholder=' ...')}" if text else head


def _of_key(config: Any, key: str) -> tuple[str, Any, str]:
    """Type, value and first sentence of the docstring of a dotted key."""
    *path, leaf = key.split(".")
    for part in path:
        config = getattr(config, part)
    return _fields(config, type(config))[leaf]


def _fields(values: Any, kind: type[Any]) -> dict[str, tuple[str, Any, str]]:
    """Name -> type, value and first sentence of the docstring of every field of a dataclass."""
    hints, docs = get_type_hints(kind), _docs(kind)
    return {
        field.name: (_type_name(hints[field.name]), getattr(values, field.name), docs.get(field.name, ""))
        for field in dataclasses.fields(kind)
    }


def _docs(kind: type[Any]) -> dict[str, str]:
    """First sentences of the strings below the fields of a dataclass and of those that it extends."""
    docs = {}
    for part in reversed(kind.__mro__[:-1]):
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(part))).body[0].body
        except OSError:  # a job that another program runs as its own main module
            continue
        for field, text in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                whole = " ".join(inspect.cleandoc(text.value.value).split())
                docs[field.target.id] = re.split(r"(?<=\.)\s", whole)[0]
    return docs


def _type_name(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "{" + ",".join(map(str, arguments)) + "}"
    if origin in (Union, types.UnionType):
        return "|".join(_type_name(part) for part in arguments)
    if origin in (tuple, list):
        return f"{_type_name(arguments[0])} ..."
    if hint is type(None):
        return "None"
    return "flag" if hint is bool else hint.__name__.upper()


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return textwrap.shorten(" ".join(map(str, value)), 60, placeholder=" ...")
    return str(value)


def _either(names) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}"
